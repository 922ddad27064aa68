from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.process.backoff import BackOff
from skysail_testing.examples import examples

seconds = st.floats(0.001, 1000)


def longest(first_s: float = 0.1, max_s: float = 1.0) -> BackOff:
    """Return a backoff without jitter."""
    return BackOff(first_s, max_s, lambda: 0.0)


def test_waits_double_up_to_the_limit():
    back_off = longest()
    assert [back_off.next_s() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_success_resets_the_waits():
    back_off = longest()
    for _ in range(5):
        back_off.next_s()
    assert not back_off.is_reset
    back_off.reset()
    assert back_off.is_reset
    assert [back_off.next_s() for _ in range(2)] == [0.1, 0.2]


@settings(max_examples=examples(30))
@given(seconds, seconds)
def test_no_wait_is_shorter_than_the_one_before_or_longer_than_the_limit(first_s, max_s):
    back_off = longest(first_s, max_s)
    waits = [back_off.next_s() for _ in range(30)]
    assert waits[0] == min(first_s, max_s)
    assert waits[-1] == max_s
    assert all(shorter <= longer for shorter, longer in pairwise(waits))


@settings(max_examples=examples(30))
@given(seconds, seconds, st.integers())
def test_jitter_shortens_a_wait_by_up_to_a_half(first_s, max_s, seed):
    surely, by_chance = longest(first_s, max_s), BackOff(first_s, max_s, Random(seed).random)
    for _ in range(30):
        longest_s = surely.next_s()
        assert longest_s / 2 <= by_chance.next_s() <= longest_s


def test_clients_that_lost_a_server_together_reconnect_at_different_times():
    waits = {BackOff(0.1, 1.0).next_s() for _ in range(20)}
    assert len(waits) == 20
