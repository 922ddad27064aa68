import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_frontend.core.batching.arrival_rate import ArrivalRate
from skysail_testing.examples import examples


def steady(rows_per_s: float, seconds: float, begin: float = 0.0, rows: int = 1) -> ArrivalRate:
    """Return a rate after equidistant arrivals until `begin + seconds`."""
    rate = ArrivalRate()
    add_steady(rate, rows_per_s, seconds, begin, rows)
    return rate


def add_steady(
    rate: ArrivalRate, rows_per_s: float, seconds: float, begin: float, rows: int = 1
) -> None:
    number = round(seconds * rows_per_s / rows)
    for index in range(1, number + 1):
        rate.observe(rows, begin + index * seconds / number)


def test_the_rate_is_0_before_the_first_arrival():
    assert ArrivalRate().rows_per_s(0.0) == 0.0
    assert ArrivalRate().rows_per_s(1e6) == 0.0


@pytest.mark.parametrize("rows_per_s", [200.0, 1000.0, 5000.0])
def test_the_rate_matches_steady_arrivals(rows_per_s):
    assert steady(rows_per_s, 3.0).rows_per_s(3.0) == pytest.approx(rows_per_s, rel=0.05)


def test_the_rate_counts_rows_and_not_queries():
    rate = steady(1000.0, 3.0, rows=10)
    # A query arrives every 10 ms; between two of them the rate is neither 0 nor that of a burst.
    assert rate.rows_per_s(3.005) == pytest.approx(1000.0, rel=0.05)


def test_the_first_instant_does_not_matter():
    assert steady(500.0, 3.0, begin=1e5).rows_per_s(1e5 + 3.0) == pytest.approx(
        steady(500.0, 3.0).rows_per_s(3.0)
    )


@pytest.mark.parametrize(("before", "after"), [(200.0, 2000.0), (2000.0, 200.0)])
def test_the_rate_follows_a_change_within_a_second(before, after):
    rate = steady(before, 3.0)
    add_steady(rate, after, 1.0, begin=3.0)
    assert rate.rows_per_s(4.0) == pytest.approx(after, rel=0.2)


def test_the_rate_shows_a_change_within_a_tenth_of_a_second():
    rate = steady(200.0, 3.0)
    add_steady(rate, 2000.0, 0.1, begin=3.0)
    assert rate.rows_per_s(3.1) > 500.0


def test_the_rate_decays_without_arrivals():
    rate = steady(1000.0, 3.0)
    assert 100.0 < rate.rows_per_s(3.25) < 700.0
    assert rate.rows_per_s(4.0) < 50.0
    assert rate.rows_per_s(1e6) == pytest.approx(0.0)


def test_arrivals_at_one_instant_add_up():
    at_once, one_by_one = ArrivalRate(), ArrivalRate()
    at_once.observe(8, 1.0)
    for _ in range(8):
        one_by_one.observe(1, 1.0)
    assert one_by_one.rows_per_s(1.1) == pytest.approx(at_once.rows_per_s(1.1))
    assert at_once.rows_per_s(1.1) > 0.0


def test_reading_the_rate_does_not_change_it():
    looked_at, other = steady(100.0, 1.0), steady(100.0, 1.0)
    for now in (1.0, 1.1, 1.2, 5.0):
        looked_at.rows_per_s(now)
    assert looked_at.rows_per_s(1.3) == other.rows_per_s(1.3)


def test_a_past_instant_counts_as_the_latest():
    rate = steady(100.0, 1.0)
    assert rate.rows_per_s(0.2) == rate.rows_per_s(1.0)


arrivals = st.lists(st.tuples(st.integers(1, 64), st.floats(0.0, 1.0)), min_size=1, max_size=30)


@settings(max_examples=examples(50))
@given(arrivals, st.lists(st.floats(0.0, 3.0), min_size=2, max_size=5))
def test_arrivals_raise_the_rate_and_time_lowers_it(arrivals, pauses):
    rate, now = ArrivalRate(), 0.0
    for rows, after_s in arrivals:
        now += after_s
        before = rate.rows_per_s(now)
        rate.observe(rows, now)
        assert rate.rows_per_s(now) > before
    latest = rate.rows_per_s(now)
    for pause in pauses:
        now += pause
        assert 0.0 <= rate.rows_per_s(now) <= latest
        latest = rate.rows_per_s(now)


@settings(max_examples=examples(50))
@given(arrivals)
def test_rates_add_up(arrivals):
    whole, parts = ArrivalRate(), (ArrivalRate(), ArrivalRate())
    now = 0.0
    for index, (rows, after_s) in enumerate(arrivals):
        now += after_s
        whole.observe(rows, now)
        parts[index % 2].observe(rows, now)
    # Each rate counts arrivals within a millisecond as simultaneous.
    together = sum(part.rows_per_s(now) for part in parts)
    assert whole.rows_per_s(now) == pytest.approx(together, rel=0.005)
