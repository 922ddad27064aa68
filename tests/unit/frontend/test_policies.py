import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.clock import NEVER
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_frontend.core.batching.arrival_rate import ArrivalRate
from skysail_frontend.core.batching.closed_loop import ClosedLoop
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.batching.policies import (
    AimdPolicy,
    BatchPlan,
    BatchSizePolicy,
    DispatchReason,
    EagerPolicy,
    FixedPolicy,
    HybridPolicy,
    QuantilePolicy,
    Situation,
    make_policy,
)
from skysail_frontend.core.query import Query
from skysail_testing.examples import examples

NOW = 100.0
SLO_S = 0.050


def line(rows: int) -> float:
    return 0.010 + 0.0005 * rows


def linear() -> LatencyProfile:
    return LatencyProfile([(rows, line(rows)) for rows in (1, 2, 4, 8, 16, 32, 64)])


class SteadyRate(ArrivalRate):
    def __init__(self, rows_per_s: float) -> None:
        super().__init__()
        self.steady = rows_per_s

    def rows_per_s(self, now: float) -> float:
        return self.steady


def head(
    *, waited_s: float = 0.0, left_s: float | None = None, rows: int = 1, slo_s: float = SLO_S
) -> Query:
    """Return a query that arrived `waited_s` before NOW, or has `left_s` left of its SLO."""
    arrival = NOW - waited_s if left_s is None else NOW + left_s - slo_s
    deadline = NEVER if slo_s == NEVER else arrival + slo_s
    return Query("", None, None, (), rows, (), arrival, deadline, lambda *_: None)


def situation(
    num_rows: int = 1, *, num_replicas: int = 4, now: float = NOW, starts_in_s: float = 0.0
) -> Situation:
    return Situation(now, now + starts_in_s, num_replicas, num_rows)


# Eager.


@pytest.mark.parametrize("query", [head(), head(left_s=0.001), head(slo_s=NEVER)])
def test_eager_sends_the_queue_at_once(query):
    plan = EagerPolicy(ServingOptions(max_batch_size=8)).plan(query, situation(3))
    assert plan == BatchPlan(8, NOW, DispatchReason.EAGER)


@pytest.mark.parametrize("name", [name for name in PolicyName if name is not PolicyName.HYBRID])
def test_only_hybrid_sheds_on_arrival(name):
    policy = make_policy(ServingOptions(policy=name), linear(), ArrivalRate(), ClosedLoop())
    assert policy.admits(head(slo_s=0.001), 10_000, 1)
    assert policy.plan(head(left_s=0.001), situation(1000)) is not None


@pytest.mark.parametrize("name", PolicyName)
def test_the_policy_is_the_one_that_the_options_name(name):
    policy = make_policy(ServingOptions(policy=name), linear(), ArrivalRate(), ClosedLoop())
    assert type(policy).__name__ == f"{name.value.title()}Policy"


# Fixed delay.


def test_fixed_sends_a_full_batch_at_once():
    policy = FixedPolicy(ServingOptions(max_batch_size=8, max_queue_delay_s=0.005))
    for num_rows in (8, 9, 1000):
        assert policy.plan(head(), situation(num_rows)) == BatchPlan(8, NOW, DispatchReason.FULL)


def test_fixed_holds_a_partial_batch_until_the_delay_of_its_oldest_query():
    policy = FixedPolicy(ServingOptions(max_batch_size=8, max_queue_delay_s=0.005))
    plan = policy.plan(head(waited_s=0.002), situation(7))
    assert plan.hold_until == pytest.approx(NOW + 0.003)
    assert plan.reason is DispatchReason.DELAY
    assert policy.plan(head(waited_s=0.006), situation(7)).hold_until <= NOW


def test_fixed_without_a_delay_does_not_hold_batches():
    plan = FixedPolicy(ServingOptions(max_batch_size=8)).plan(head(), situation(1))
    assert plan.max_rows == 8
    assert plan.hold_until <= NOW


# Additive increase, multiplicative decrease.


def limit_of(policy: BatchSizePolicy) -> int:
    """Return the most rows that a policy sends now."""
    plan = policy.plan(head(), situation(10_000))
    assert plan.reason is DispatchReason.FULL
    assert plan.hold_until <= NOW
    return plan.max_rows


def aimd(at_least: int = 1, **options: object) -> AimdPolicy:
    policy = AimdPolicy(ServingOptions(policy=PolicyName.AIMD, **options))
    while limit_of(policy) < at_least:
        policy.observe(limit_of(policy), 0.001, SLO_S)
    return policy


def test_aimd_starts_with_one_row_and_adds_two_after_a_fast_batch():
    policy, limits = aimd(), []
    for _ in range(4):
        limits.append(limit_of(policy))
        policy.observe(limits[-1], 0.89 * SLO_S, SLO_S)
    assert limits == [1, 3, 5, 7]


def test_aimd_keeps_its_maximum_after_a_batch_that_just_fits():
    policy = aimd(9)
    for part in (0.9, 0.95, 1.0):
        policy.observe(9, part * SLO_S, SLO_S)
    assert limit_of(policy) == 9


def test_aimd_reduces_its_maximum_by_a_tenth_after_a_late_batch():
    policy = aimd(41)
    policy.observe(41, 1.01 * SLO_S, SLO_S)
    assert limit_of(policy) == 36
    policy.observe(36, 1.01 * SLO_S, SLO_S)
    assert limit_of(policy) == 32


def test_aimd_reduces_the_size_of_the_batch_that_was_sent():
    policy = aimd(41)
    policy.observe(20, 1.01 * SLO_S, SLO_S)
    assert limit_of(policy) == 18


def test_aimd_is_not_raised_by_a_late_query_larger_than_its_maximum():
    policy = aimd(21)
    policy.observe(200, 1.01 * SLO_S, SLO_S)
    assert limit_of(policy) == 18


def test_aimd_ignores_a_fast_small_batch():
    policy = aimd(21)
    for rows in (1, 10, 20):
        policy.observe(rows, 0.001, SLO_S)
    assert limit_of(policy) == 21


def test_aimd_holds_a_batch_below_its_maximum_for_the_delay():
    policy = aimd(9, max_queue_delay_s=0.005)
    plan = policy.plan(head(), situation(8))
    assert (plan.max_rows, plan.reason) == (9, DispatchReason.DELAY)
    assert plan.hold_until == pytest.approx(NOW + 0.005)


def test_aimd_converges_to_the_size_that_fits_the_budget():
    policy, limits = aimd(), []
    for _ in range(300):
        limits.append(limit_of(policy))
        policy.observe(limits[-1], line(limits[-1]), 0.0301)
    # 40 rows take 30 ms, and 34 rows take nine tenths of that.
    assert 32 <= min(limits[100:]) <= max(limits[100:]) <= 42


@settings(max_examples=examples(50))
@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0.0, 0.2)), max_size=60))
def test_aimd_stays_between_1_and_the_maximum_batch_size(batches):
    policy = AimdPolicy(ServingOptions(max_batch_size=20))
    for rows, latency_s in batches:
        policy.observe(rows, latency_s, SLO_S)
        assert 1 <= limit_of(policy) <= 20


# Quantile.


@pytest.mark.parametrize(
    ("slo_s", "rows"), [(0.0301, 40), (0.0201, 20), (0.5, 64), (0.001, 1), (NEVER, 64)]
)
def test_quantile_sends_the_rows_that_fit_the_budget(slo_s, rows):
    policy = QuantilePolicy(ServingOptions(max_queue_delay_s=0.005), linear())
    query = head(slo_s=slo_s)
    assert policy.plan(query, situation(64)) == BatchPlan(rows, NOW, DispatchReason.FULL)
    if rows > 1:
        plan = policy.plan(query, situation(rows - 1))
        assert (plan.max_rows, plan.reason) == (rows, DispatchReason.DELAY)
        assert plan.hold_until == pytest.approx(NOW + 0.005)


def test_quantile_uses_the_whole_budget_and_not_the_rest():
    policy = QuantilePolicy(ServingOptions(), linear())
    assert policy.plan(head(slo_s=0.0301, left_s=0.011), situation(64)).max_rows == 40


def test_quantile_follows_the_profile():
    profile = linear()
    policy = QuantilePolicy(ServingOptions(), profile)
    for rows in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(8):
            profile.observe(rows, 2 * line(rows), 0.0)
    assert policy.plan(head(slo_s=0.0401), situation(64)).max_rows == 20


def test_quantile_has_no_limit_before_it_has_learned():
    policy = QuantilePolicy(ServingOptions(max_batch_size=32), LatencyProfile())
    assert policy.plan(head(), situation(64)).max_rows == 32


# Hybrid.


def hybrid(
    rows_per_s: float = 0.0,
    profile: LatencyProfile | None = None,
    closed_loop: ClosedLoop | None = None,
    **options: object,
):
    profile = linear() if profile is None else profile
    closed_loop = ClosedLoop() if closed_loop is None else closed_loop
    return HybridPolicy(ServingOptions(**options), profile, SteadyRate(rows_per_s), closed_loop)


def test_hybrid_without_a_deadline_is_eager():
    plan = hybrid(1e6, max_batch_size=32).plan(head(slo_s=NEVER), situation(3))
    assert plan == BatchPlan(32, NOW, DispatchReason.EAGER)


def test_hybrid_is_eager_before_it_has_learned():
    policy = hybrid(1e6, LatencyProfile(), max_batch_size=32)
    assert policy.plan(head(left_s=0.001), situation(3)) == BatchPlan(32, NOW, DispatchReason.EAGER)


def test_hybrid_sends_a_batch_that_would_be_late_with_more_rows():
    plan = hybrid(1e6).plan(head(left_s=0.0301), situation(40))
    assert plan == BatchPlan(40, NOW, DispatchReason.FULL)


def test_hybrid_sends_a_batch_of_the_maximum_size_at_once():
    plan = hybrid(1e6, max_batch_size=32).plan(head(slo_s=10.0), situation(50))
    assert plan == BatchPlan(32, NOW, DispatchReason.FULL)


def test_hybrid_counts_the_time_until_the_replica_starts():
    policy = hybrid(1e6)
    assert policy.plan(head(), situation(20, starts_in_s=0.0299)).max_rows == 20
    assert policy.plan(head(), situation(20, starts_in_s=0.035)) is None


@pytest.mark.parametrize(
    ("rows_per_s", "num_replicas", "target"),
    # The fewest b with N·b / l(b) at least a quarter above the rate.
    [(0.0, 4, 1), (400.0, 4, 2), (1000.0, 4, 4), (1000.0, 2, 10), (3500.0, 4, 25)],
)
def test_hybrid_sends_a_batch_with_which_the_replicas_keep_up(rows_per_s, num_replicas, target):
    policy = hybrid(rows_per_s)
    plan = policy.plan(head(slo_s=0.1), situation(target, num_replicas=num_replicas))
    assert (plan.hold_until, plan.reason) == (NOW, DispatchReason.TARGET)
    assert plan.max_rows == 64
    if target > 1:
        plan = policy.plan(head(slo_s=0.1), situation(target - 1, num_replicas=num_replicas))
        assert plan.hold_until > NOW
        assert plan.reason is DispatchReason.FRONTRUN


@pytest.mark.parametrize(("num_replicas", "useful"), [(2, 46), (4, 60)])
def test_hybrid_limits_batches_so_that_a_query_may_miss_one(num_replicas, useful):
    # With 2 replicas a query that misses a batch waits for half of one; 46 rows take 33 ms of 50.
    policy = hybrid(1e6)
    for num_rows, is_held in ((useful - 1, True), (useful, False)):
        plan = policy.plan(head(slo_s=0.0501), situation(num_rows, num_replicas=num_replicas))
        assert (plan.hold_until > NOW) == is_held


def test_hybrid_does_not_hold_batches_for_a_single_replica():
    policy = hybrid(1e6)
    for num_rows in (1, 10):
        plan = policy.plan(head(slo_s=0.2), situation(num_rows, num_replicas=1))
        assert (plan.hold_until, plan.reason) == (NOW, DispatchReason.SINGLE_REPLICA)
        assert plan.max_rows == 64


def test_hybrid_holds_until_one_more_row_would_be_late():
    plan = hybrid(3500.0).plan(head(slo_s=0.030), situation(12))
    # 13 rows take 16.5 ms, of nine tenths of 30 ms.
    assert plan.reason is DispatchReason.FRONTRUN
    assert plan.hold_until == pytest.approx(NOW + 0.9 * 0.030 - line(13))


def test_hybrid_holds_no_longer_than_the_latency_of_the_batch():
    plan = hybrid(3500.0).plan(head(slo_s=1.0), situation(12))
    assert plan.reason is DispatchReason.FRONTRUN
    assert plan.hold_until == pytest.approx(NOW + line(12))


def test_hybrid_sheds_a_query_that_would_keep_batches_small():
    query = head(left_s=0.0301)
    # The target of 60 rows under this load takes 40 ms.
    assert hybrid(1e6).plan(query, situation(60)) is None
    # The same query is in time if smaller batches keep up.
    assert hybrid(100.0).plan(query, situation(60)).max_rows == 40
    # It is also in time if no other query is queued.
    assert hybrid(1e6).plan(query, situation(40)).max_rows == 40


def test_hybrid_sheds_a_query_that_is_late_even_alone():
    for rows_per_s in (0.0, 1e6):
        for num_replicas in (1, 4):
            alone = situation(1, num_replicas=num_replicas)
            assert hybrid(rows_per_s).plan(head(left_s=0.010), alone) is None
            assert hybrid(rows_per_s).plan(head(left_s=0.011), alone) is not None


def test_hybrid_sends_a_query_larger_than_the_maximum():
    policy = hybrid(1e6, max_batch_size=8)
    plan = policy.plan(head(rows=40), situation(41))
    assert plan == BatchPlan(40, NOW, DispatchReason.FULL)
    assert policy.plan(head(rows=40, left_s=0.029), situation(41)) is None


@settings(max_examples=examples(100))
@given(
    rows_per_s=st.floats(0.0, 20_000.0),
    slo_s=st.floats(0.005, 0.5),
    used=st.floats(0.0, 1.0),
    num_rows=st.integers(1, 200),
    num_replicas=st.integers(1, 16),
    starts_in_s=st.sampled_from([0.0, 0.003, 0.02]),
)
def test_batches_planned_by_hybrid_are_in_time(
    rows_per_s, slo_s, used, num_rows, num_replicas, starts_in_s
):
    query = head(slo_s=slo_s, waited_s=used * slo_s)
    now = situation(num_rows, num_replicas=num_replicas, starts_in_s=starts_in_s)
    plan = hybrid(rows_per_s).plan(query, now)
    if plan is None:
        # The head is not shed if a batch with the whole queue is in time.
        assert now.start_at + line(min(num_rows, 64)) > query.deadline - 1e-9
        return
    held_s = max(0.0, plan.hold_until - NOW)
    rows = min(num_rows, plan.max_rows)
    assert 1 <= rows <= 64
    assert max(now.start_at, NOW + held_s) + line(rows) <= query.deadline + 1e-9
    if held_s:
        assert num_replicas > 1
        assert NOW + held_s + line(num_rows + 1) <= query.arrival + 0.9 * slo_s + 1e-9


# Admission.


def test_hybrid_admits_a_query_into_an_empty_queue():
    assert hybrid(1e6).admits(head(), 0, 1)
    assert hybrid(1e6).admits(head(slo_s=0.0105), 0, 1)


def test_hybrid_sheds_a_query_that_is_certain_to_be_late():
    assert not hybrid().admits(head(slo_s=0.005), 0, 4)
    assert not hybrid().admits(head(rows=64, slo_s=0.030), 0, 4)
    # 60 rows fit into a batch, so that these rows wait for five batches of 40 ms.
    assert not hybrid().admits(head(), 4 * 300, 4)


def test_hybrid_admits_more_with_more_replicas_and_longer_budgets():
    assert not hybrid().admits(head(), 300, 4)
    assert hybrid().admits(head(), 300, 16)
    assert hybrid().admits(head(slo_s=0.2), 300, 4)


def test_hybrid_admits_everything_without_a_deadline_or_before_it_has_learned():
    assert hybrid().admits(head(slo_s=NEVER), 10_000, 1)
    assert hybrid(profile=LatencyProfile()).admits(head(slo_s=0.001), 10_000, 1)


@settings(max_examples=examples(50))
@given(st.floats(0.005, 0.5), st.integers(1, 16), st.integers(0, 2000), st.integers(1, 1000))
def test_hybrid_admits_more_with_a_shorter_queue_and_more_replicas(slo_s, num_replicas, rows, more):
    query, policy = head(slo_s=slo_s), hybrid()
    if policy.admits(query, rows + more, num_replicas):
        assert policy.admits(query, rows, num_replicas)
    if policy.admits(query, rows, num_replicas):
        assert policy.admits(query, rows, num_replicas + more)


@settings(max_examples=examples(50))
@given(st.floats(0.0106, 0.5), st.integers(1, 16))
def test_hybrid_admits_a_query_that_is_in_time_alone(slo_s, num_replicas):
    assert hybrid().admits(head(slo_s=slo_s), 0, num_replicas)


# Closed-loop callers.


def returned(rows: int, took_s: float, *, now: float = NOW) -> ClosedLoop:
    """Return a loop that saw whole batches return within a time, with a result at `now`."""
    closed_loop = ClosedLoop()
    for index in range(20, 0, -1):
        closed_loop.observe_result(rows, 0.05, now - index)
        closed_loop.observe_arrival(rows, now - index + took_s)
    closed_loop.observe_result(rows, 0.05, now)
    return closed_loop


def test_one_replica_holds_a_batch_for_the_returns_of_the_last_one():
    plan = hybrid(1e6, closed_loop=returned(8, 0.002)).plan(
        head(slo_s=1.0), situation(8, num_replicas=1)
    )
    assert NOW + 0.002 < plan.hold_until < NOW + 0.004
    assert plan.reason is DispatchReason.SINGLE_REPLICA


def test_a_hold_for_returns_ends_once_they_have_arrived():
    closed_loop = returned(8, 0.002)
    closed_loop.observe_arrival(8, NOW)
    plan = hybrid(closed_loop=closed_loop).plan(head(slo_s=1.0), situation(16, num_replicas=1))
    assert plan.hold_until <= NOW


def test_a_batch_is_not_held_for_returns_that_gain_too_little():
    policy = hybrid(closed_loop=returned(1, 0.009))
    assert policy.plan(head(slo_s=1.0), situation(20, num_replicas=1)).hold_until <= NOW


def test_a_batch_is_not_held_for_returns_that_make_it_late():
    policy = hybrid(closed_loop=returned(8, 0.002))
    late = head(left_s=line(16) + 0.001, slo_s=1.0)
    assert policy.plan(late, situation(8, num_replicas=1)).hold_until <= NOW


def test_several_replicas_do_not_hold_batches_for_returns():
    closed_loop = returned(8, 0.002)
    plan = hybrid(1e6, closed_loop=closed_loop).plan(
        head(slo_s=0.05), situation(64, num_replicas=2)
    )
    assert plan.hold_until <= NOW


def test_a_batch_is_held_for_returns_without_a_deadline():
    plan = hybrid(closed_loop=returned(8, 0.002)).plan(
        head(slo_s=NEVER), situation(8, num_replicas=1)
    )
    assert plan.hold_until > NOW
    assert plan.reason is DispatchReason.EAGER
