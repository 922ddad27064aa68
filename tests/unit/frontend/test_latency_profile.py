from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_testing.examples import examples

SIZES = (1, 2, 4, 8, 16, 32, 64)


def line(rows: int) -> float:
    return 0.010 + 0.0005 * rows


def linear(sizes: tuple[int, ...] = SIZES) -> LatencyProfile:
    return LatencyProfile([(rows, line(rows)) for rows in sizes])


def observed(rows: int, *latencies_s: float) -> LatencyProfile:
    profile = LatencyProfile()
    observe(profile, rows, *latencies_s)
    return profile


def observe(profile: LatencyProfile, rows: int, *latencies_s: float, begin: float = 0.0) -> None:
    for index, latency_s in enumerate(latencies_s):
        profile.observe(rows, latency_s, begin + 0.01 * index)


latencies = st.floats(0.0001, 1.0)
some_points = st.lists(st.tuples(st.integers(1, 200), latencies), min_size=1, max_size=12)
observations = st.lists(
    st.tuples(st.integers(1, 200), latencies, st.sampled_from([0.0, 0.01, 40.0])),
    min_size=1,
    max_size=100,
)


def profile_of(observations: list[tuple[int, float, float]]) -> LatencyProfile:
    profile, now = LatencyProfile(), 0.0
    for rows, latency_s, after_s in observations:
        now += after_s
        profile.observe(rows, latency_s, now)
    return profile


# Empty profiles.


def test_an_empty_profile_sets_no_limits():
    profile = LatencyProfile()
    assert profile.is_empty
    assert profile.points() == []
    assert profile.num_observed == 0
    assert profile.latency_s(64) == 0.0
    assert profile.largest(0.001, 64) == 64


def test_an_empty_profile_without_seeds_stays_empty():
    profile = LatencyProfile()
    profile.seed([])
    assert profile.is_empty


def test_one_batch_fills_a_profile():
    profile = observed(4, 0.010)
    assert not profile.is_empty
    assert profile.num_observed == 1
    assert profile.latency_s(4) == 0.010


# Shape.


def test_sizes_are_interpolated():
    profile = linear((1, 16))
    assert profile.latency_s(7) == pytest.approx(line(7))


def test_sizes_below_the_smallest_known_have_its_latency():
    profile = linear((8, 16))
    assert profile.latency_s(1) == profile.latency_s(8) == line(8)


def test_sizes_above_the_largest_known_are_extrapolated():
    profile = linear((1, 16))
    assert profile.latency_s(64) == pytest.approx(line(64))


def test_sizes_above_the_only_known_grow_in_proportion():
    profile = observed(8, 0.010)
    assert profile.latency_s(32) == pytest.approx(0.040)
    assert profile.largest(0.0401, 64) == 32
    assert profile.largest(0.0401, 20) == 20


def test_a_model_of_constant_latency_gets_the_largest_batch():
    profile = LatencyProfile([(1, 0.010), (8, 0.010)])
    assert profile.latency_s(1000) == 0.010
    assert profile.largest(0.010, 1000) == 1000
    assert profile.largest(0.009, 1000) == 0


def test_larger_sizes_that_seem_faster_are_pooled():
    profile = LatencyProfile([(1, 0.010), (2, 0.030), (4, 0.020), (8, 0.040)])
    assert profile.latency_s(1) == 0.010
    assert profile.latency_s(2) == profile.latency_s(4) == pytest.approx(0.025)
    assert profile.latency_s(8) == 0.040


@settings(max_examples=examples(50))
@given(observations)
def test_more_rows_never_take_less_time(observations):
    profile = profile_of(observations)
    points = profile.points()
    assert points == sorted(points)
    assert [latency_s for _, latency_s in points] == sorted(latency_s for _, latency_s in points)
    all_s = [profile.latency_s(rows) for rows in range(1, 260)]
    for fewer_s, more_s in pairwise(all_s):
        assert more_s >= fewer_s * (1 - 1e-12)


@settings(max_examples=examples(50))
@given(observations)
def test_the_profile_stays_within_the_observed_latencies(observations):
    profile = profile_of(observations)
    seen = [latency_s for _, latency_s, _ in observations]
    largest = max(rows for rows, _ in profile.points())
    for rows in range(1, largest + 1):
        assert min(seen) * (1 - 1e-9) <= profile.latency_s(rows) <= max(seen) * (1 + 1e-9)


def test_similar_sizes_share_a_window_on_the_safe_side():
    profile = LatencyProfile()
    for _ in range(3):
        for rows in range(1, 513):
            profile.observe(rows, line(rows), 0.0)
    assert len(profile.points()) < 64
    for rows in range(1, 513):
        assert line(rows) * (1 - 1e-9) <= profile.latency_s(rows) <= 1.125 * line(rows)


def test_small_sizes_have_their_own_windows():
    profile = LatencyProfile()
    for rows in range(1, 17):
        profile.observe(rows, line(rows), 0.0)
    assert profile.points() == [(rows, line(rows)) for rows in range(1, 17)]


# Learning.


def test_the_estimate_is_a_high_quantile():
    often, rarely = [0.010] * 3 + [0.015], [0.010] * 63 + [0.015]
    assert observed(8, *often * 16).latency_s(8) == 0.015
    assert observed(8, *rarely).latency_s(8) == 0.010


@pytest.mark.parametrize("num_before", [1, 2, 5, 20, 100])
def test_one_outlier_does_not_change_the_estimate(num_before):
    profile = observed(8, *[0.010] * num_before)
    profile.observe(8, 2.0, 1.0)
    assert profile.latency_s(8) == 0.010
    observe(profile, 8, *[0.010] * 100, begin=1.01)
    assert profile.latency_s(8) == 0.010


def test_an_outlier_in_the_first_batch_is_forgotten_at_once():
    profile = observed(8, 2.0)
    profile.observe(8, 0.010, 0.1)
    assert profile.latency_s(8) == 0.010


def test_an_outlier_of_one_size_does_not_change_the_others():
    profile = linear()
    observe(profile, 4, *[line(4)] * 20)
    profile.observe(4, 2.0, 0.5)
    for rows in SIZES:
        assert profile.latency_s(rows) == pytest.approx(line(rows))


def test_one_pause_at_a_new_size_does_not_rule_out_larger_sizes():
    profile = LatencyProfile([(rows, 0.013) for rows in (1, 2, 4, 8, 16, 32, 64)])
    profile.observe(9, 0.500, 0.5)
    assert profile.latency_s(64) < 0.026
    observe(profile, 9, *[0.013] * 8, begin=0.6)
    assert profile.latency_s(64) == pytest.approx(0.013)


@pytest.mark.parametrize(("before_s", "after_s"), [(0.010, 0.020), (0.010, 0.5), (0.5, 0.010)])
def test_the_profile_follows_drift(before_s, after_s):
    profile = observed(8, *[before_s] * 200)
    observe(profile, 8, *[after_s] * 80, begin=10.0)
    assert profile.latency_s(8) == after_s


def test_a_moderate_slowdown_is_learned_after_a_few_batches():
    profile = observed(8, *[0.010] * 200)
    observe(profile, 8, *[0.020] * 16, begin=10.0)
    assert profile.latency_s(8) == 0.020


def test_the_profile_follows_drift_of_alternating_sizes():
    profile = LatencyProfile()
    for factor in (1.0, 2.0):
        for _ in range(200):
            for rows in (4, 8):
                profile.observe(rows, factor * line(rows), 0.0)
    assert profile.latency_s(4) == pytest.approx(2 * line(4))
    assert profile.latency_s(8) == pytest.approx(2 * line(8))


def test_old_latencies_yield_to_contradicting_new_ones():
    young, old = observed(4, *[0.100] * 64), observed(4, *[0.100] * 64)
    observe(young, 8, *[0.010] * 8, begin=1.0)
    observe(old, 8, *[0.010] * 8, begin=100.0)
    assert young.latency_s(8) > 0.080
    assert old.latency_s(8) < 0.020


def test_batches_are_counted():
    profile = linear()
    assert profile.num_observed == 0
    observe(profile, 4, 0.010, 0.011, 0.012)
    assert profile.num_observed == 3


# Seeding.


def test_points_seed_another_profile():
    profile = LatencyProfile()
    for index, rows in enumerate((1, 3, 40, 17, 100) * 30):
        profile.observe(rows, line(rows) * (1 + index % 3), 0.1 * index)
    other = LatencyProfile(profile.points())
    for rows in range(1, 200):
        assert other.latency_s(rows) == pytest.approx(profile.latency_s(rows))


@settings(max_examples=examples(50))
@given(observations)
def test_points_survive_a_round_trip(observations):
    points = profile_of(observations).points()
    again = LatencyProfile(points).points()
    assert [rows for rows, _ in again] == [rows for rows, _ in points]
    assert [each for _, each in again] == pytest.approx([each for _, each in points])


def test_seeds_add_unknown_sizes_only():
    profile = observed(4, *[0.012] * 10)
    profile.seed([(1, 0.001), (4, 0.014), (16, 0.018)])
    assert profile.points() == [(1, 0.001), (4, 0.012), (16, 0.018)]


def test_seeds_do_not_count_as_batches_and_may_come_in_any_order():
    profile = LatencyProfile([(16, 0.018), (1, 0.010)])
    assert profile.num_observed == 0
    assert profile.points() == [(1, 0.010), (16, 0.018)]


def test_observed_latencies_replace_seeds():
    profile = linear()
    for rows in SIZES:
        observe(profile, rows, *[2 * line(rows)] * 8)
    for rows in SIZES:
        assert profile.latency_s(rows) == pytest.approx(2 * line(rows))


# Rows for a budget or a rate.


def test_the_largest_batch_of_a_budget():
    profile = linear()
    assert profile.largest(0.0104, 64) == 0
    assert profile.largest(0.0201, 64) == 20
    assert profile.largest(0.0201, 16) == 16
    assert profile.largest(0.0201, 5) == 5
    assert profile.largest(float("inf"), 64) == 64
    assert profile.largest(-1.0, 64) == 0


def test_the_largest_batch_may_exceed_the_known_sizes():
    profile = linear((1, 16))
    assert profile.largest(0.0301, 64) == 40
    assert profile.largest(1.0, 64) == 64


@settings(max_examples=examples(50))
@given(some_points, st.integers(1, 300), st.integers(1, 300))
def test_a_batch_fits_its_own_latency(points, rows, limit):
    profile = LatencyProfile(points)
    if rows <= limit:
        assert profile.largest(profile.latency_s(rows) * (1 + 1e-9), limit) >= rows


def test_a_batch_fits_exactly_its_own_latency():
    profile = linear((1, 16, 64))
    for rows in range(1, 65):
        assert profile.largest(profile.latency_s(rows), 64) >= rows


@settings(max_examples=examples(50))
@given(some_points, st.floats(0.0001, 2.0), st.integers(1, 300))
def test_the_largest_batch_fits_its_budget_and_no_larger_one_does(points, budget_s, limit):
    profile = LatencyProfile(points)
    rows = profile.largest(budget_s, limit)
    assert 0 <= rows <= limit
    if rows:
        assert profile.latency_s(rows) <= budget_s * (1 + 1e-9)
    if rows < limit:
        assert profile.latency_s(rows + 1) > budget_s * (1 - 1e-9)


@settings(max_examples=examples(50))
@given(some_points, st.floats(0.1, 20_000.0), st.integers(1, 300))
def test_the_smallest_batch_for_a_rate_keeps_up_and_no_smaller_one_does(points, rate, limit):
    profile = LatencyProfile(points)
    rows = profile.smallest_for(rate, limit)
    assert 1 <= rows <= limit
    if rows < limit:
        assert rows >= rate * profile.latency_s(rows) * (1 - 1e-9)
    for fewer in range(1, rows):
        assert fewer <= rate * profile.latency_s(fewer) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("rows_per_s", "rows"), [(0.0, 1), (50.0, 1), (100.0, 2), (990.0, 20), (1800.0, 64), (1e9, 64)]
)
def test_the_smallest_batch_for_a_rate(rows_per_s, rows):
    assert linear().smallest_for(rows_per_s, 64) == rows


def test_the_smallest_batch_may_exceed_the_known_sizes():
    assert linear((1, 16)).smallest_for(1490.0, 100) == 59
    assert linear((1, 16)).smallest_for(1490.0, 50) == 50
