from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.back_off import BackOff

seconds = st.floats(0.001, 1000)


def test_waits_double_up_to_the_limit():
    back_off = BackOff(0.1, 1.0)
    assert [back_off.next_s() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_success_begins_anew():
    back_off = BackOff(0.1, 1.0)
    for _ in range(5):
        back_off.next_s()
    back_off.reset()
    assert [back_off.next_s() for _ in range(2)] == [0.1, 0.2]


@settings(max_examples=30)
@given(seconds, seconds)
def test_no_wait_is_shorter_than_the_one_before_or_longer_than_the_limit(first_s, max_s):
    back_off = BackOff(first_s, max_s)
    waits = [back_off.next_s() for _ in range(30)]
    assert waits[0] == min(first_s, max_s)
    assert waits[-1] == max_s
    assert all(shorter <= longer for shorter, longer in pairwise(waits))
