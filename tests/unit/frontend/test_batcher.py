from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.clock import NEVER
from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_frontend.core.batching.batcher import LAST_ATTEMPT, BatchDecision, Batcher
from skysail_frontend.core.batching.policies import DispatchReason, ShedReason
from skysail_frontend.core.query import DEFAULT_PRIORITY, Query
from skysail_testing.examples import examples
from unit.frontend.batcher_queries import NOW, line, query

SIZES = (1, 2, 4, 8, 16, 32, 64)


def batcher_of(*queries: Query, **options: object) -> Batcher:
    options = {"policy": PolicyName.EAGER, **options}
    batcher = Batcher(ServingOptions(**options))
    for each in queries:
        batcher.push(each)
    return batcher


def hybrid_of(*queries: Query, rows_per_s: float = 0.0, **options: object) -> Batcher:
    """Return a batcher with learned latencies, a recent batch and an arrival rate.

    Of 1e6 rows a second nothing keeps up with.
    """
    batcher = Batcher(ServingOptions())
    batcher.profile.seed([(rows, line(rows)) for rows in SIZES])
    batcher.push(query(NEVER, arrival=NOW - 0.001))
    assert decide(batcher, NOW - 0.001).batch
    batcher.options = ServingOptions(**options)
    # The time constant of the rate is a quarter of a second.
    batcher.rate.observe(int(rows_per_s / 4), NOW)
    for each in queries:
        batcher.push(each)
    return batcher


def decide(batcher: Batcher, now: float = NOW, num_replicas: int = 4) -> BatchDecision:
    return batcher.decide(now, now, num_replicas)


def batches_of(batcher: Batcher) -> list[list[Query]]:
    batches = []
    while (decision := decide(batcher)).batch:
        assert decision.shed == []
        batches.append(decision.batch)
    assert len(batcher.queue) == 0
    return batches


def rows_of(batches: list[list[Query]]) -> list[list[int]]:
    return [[each.rows for each in batch] for batch in batches]


# The queries of a batch.


@settings(max_examples=examples(50))
@given(
    st.lists(
        st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.integers(1, 12), st.integers(0, 3)),
        max_size=30,
    ),
    st.integers(1, 10),
)
def test_batches_contain_each_query_once_in_order_within_the_maximum(parts, max_batch_size):
    queries = [query(within_s, rows, attempts=attempts) for within_s, rows, attempts in parts]
    batches = batches_of(batcher_of(*queries, max_batch_size=max_batch_size))
    sent = [each for batch in batches for each in batch]
    assert sent == sorted(queries, key=lambda each: each.deadline)
    for batch in batches:
        assert len(batch) == 1 or sum(each.rows for each in batch) <= max_batch_size
        assert len(batch) == 1 or all(each.attempts < LAST_ATTEMPT for each in batch)


@settings(max_examples=examples(50))
@given(st.lists(st.integers(1, 12), min_size=2, max_size=30), st.integers(1, 10))
def test_a_batch_ends_only_if_the_next_query_does_not_fit(all_rows, max_batch_size):
    queries = [query(1.0, rows) for rows in all_rows]
    batches = batches_of(batcher_of(*queries, max_batch_size=max_batch_size))
    for batch, following in pairwise(batches):
        assert sum(each.rows for each in batch) + following[0].rows > max_batch_size


def test_a_query_larger_than_the_maximum_is_sent_alone():
    queries = query(1, 2), query(2, 9), query(3, 2)
    assert rows_of(batches_of(batcher_of(*queries, max_batch_size=8))) == [[2], [9], [2]]


def test_a_query_on_its_last_attempt_is_sent_alone():
    batcher = batcher_of(
        query(1, 1),
        query(2, 2, attempts=LAST_ATTEMPT),
        query(3, 3, attempts=LAST_ATTEMPT - 1),
        query(4, 4),
    )
    assert rows_of(batches_of(batcher)) == [[1], [2], [3, 4]]


def test_a_batch_is_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr("skysail_frontend.core.batching.batcher.MAX_BATCH_BYTES", 100)
    batcher = batcher_of(*[query(size=size) for size in (60, 50, 200, 30, 30)])
    sizes = [[each.input_bytes for each in batch] for batch in batches_of(batcher)]
    assert sizes == [[60], [50], [200], [30, 30]]


def test_an_empty_queue_gives_no_batch():
    decision = decide(batcher_of())
    assert (decision.batch, decision.shed, decision.wait_until) == ([], [], NEVER)


@pytest.mark.parametrize("policy", PolicyName)
def test_a_batch_never_makes_its_head_late(policy):
    batcher = hybrid_of(*[query(0.0301) for _ in range(200)], rows_per_s=1e6, policy=policy)
    is_aware = policy in (PolicyName.HYBRID, PolicyName.QUANTILE)
    first = {PolicyName.AIMD: 1}.get(policy, 40 if is_aware else 64)
    assert len(decide(batcher, num_replicas=1).batch) == first


# Priorities.


def order_of(*queries: Query, **options: object) -> list[Query]:
    batcher = batcher_of(*queries, max_batch_size=1, **options)
    return [each for batch in batches_of(batcher) for each in batch]


def test_the_higher_priority_precedes_for_equal_deadlines():
    queries = [query(1.0, priority=priority) for priority in (3, 2, 4, 1, 2)]
    assert [each.priority for each in order_of(*queries)] == [1, 2, 2, 3, 4]


def test_a_query_gains_a_priority_by_waiting():
    low = query(1.0, arrival=NOW - 0.2, priority=3)
    sooner, later = query(1.0, arrival=NOW - 0.15), query(1.0, arrival=NOW - 0.05)
    assert order_of(low, sooner, later, priority_step_s=0.1) == [sooner, low, later]
    assert order_of(low, sooner, later, priority_step_s=0.01) == [low, sooner, later]
    assert order_of(low, sooner, later, priority_step_s=1.0) == [sooner, later, low]


@settings(max_examples=examples(50))
@given(
    st.lists(st.tuples(st.floats(0.001, 1.0), st.integers(0, 5)), min_size=1, max_size=20),
    st.sampled_from([0.0, 0.05, 0.2]),
)
def test_a_priority_shifts_the_deadline_of_a_query(parts, step_s):
    queries = [query(within_s, priority=priority) for within_s, priority in parts]
    ranks = [
        each.deadline + (each.priority - DEFAULT_PRIORITY) * step_s
        for each in order_of(*queries, priority_step_s=step_s)
    ]
    assert ranks == pytest.approx(sorted(ranks))
    assert len(ranks) == len(queries)


def test_a_requeued_query_keeps_its_rank():
    urgent, usual = query(1.0, priority=1), query(1.0)
    batcher = batcher_of(usual, urgent, max_batch_size=1)
    assert decide(batcher).batch == [urgent]
    batcher.requeue(urgent)
    assert decide(batcher).batch == [urgent]
    assert decide(batcher).batch == [usual]


# Shedding.


@pytest.mark.parametrize("policy", PolicyName)
def test_an_expired_query_is_shed_and_not_sent(policy):
    expired, at_its_end, good = query(0.1), query(0.2), query(0.3)
    batcher = batcher_of(expired, good, at_its_end, policy=policy)
    decision = decide(batcher, NOW + 0.2)
    assert decision.shed == [(expired, ShedReason.EXPIRED), (at_its_end, ShedReason.EXPIRED)]
    assert decision.batch == [good]
    assert not expired.is_queued


def test_an_expired_query_behind_a_higher_priority_is_not_sent():
    urgent, expired = query(0.25, priority=1), query(0.2)
    batcher = batcher_of(urgent, expired, priority_step_s=0.1)
    decision = decide(batcher, NOW + 0.21)
    assert decision.batch == [urgent]


def test_a_hopeless_query_is_shed_in_favour_of_the_others():
    # 60 rows take 40 ms: the rest of the budget is enough for a small batch only.
    hopeless = [query(0.050, arrival=NOW - 0.030) for _ in range(5)]
    good = [query(0.060) for _ in range(70)]
    decision = decide(hybrid_of(*hopeless, *good, rows_per_s=1e6))
    assert decision.shed == [(each, ShedReason.HOPELESS) for each in hopeless]
    assert decision.batch == good[:64]
    assert decision.reason is DispatchReason.FULL
    assert not any(each.is_queued for each in hopeless)


def test_a_query_with_a_long_budget_is_not_hopeless():
    queries = [query(0.050, arrival=NOW - 0.030) for _ in range(5)]
    decision = decide(hybrid_of(*queries))
    assert decision.shed == []
    assert decision.batch == queries


# Probes.


def known_to_be_slow(*queries: Query) -> Batcher:
    batcher = batcher_of(policy=PolicyName.HYBRID)
    batcher.profile.seed([(1, 1.0)])
    batcher.push(query(NEVER, arrival=NOW - 1.0))
    assert decide(batcher, NOW - 1.0).batch
    for each in queries:
        batcher.push(each)
    return batcher


def test_a_probe_is_sent_after_a_while_of_hopeless_queries():
    queries = [query(0.050) for _ in range(10)]
    batcher = known_to_be_slow(*queries)
    first, second = decide(batcher), decide(batcher)
    assert (first.batch, first.shed, first.reason) == (queries[:1], [], DispatchReason.PROBE)
    assert second.batch == []
    assert second.shed == [(each, ShedReason.HOPELESS) for each in queries[1:]]


def test_the_next_probe_is_sent_after_a_while():
    batcher = known_to_be_slow(query(0.050))
    assert decide(batcher).batch
    sent = []
    for index in range(1, 100):
        now = NOW + 0.01 * index
        batcher.push(query(0.050, arrival=now))
        if decide(batcher, now).batch:
            sent.append(now)
    assert len(sent) == 3


def test_a_fast_probe_makes_queries_admissible_again():
    batcher = known_to_be_slow(query(0.050), query(0.050))
    assert decide(batcher).reason is DispatchReason.PROBE
    batcher.observe(1, 0.010, 0.050, NOW + 0.010)
    decision = decide(batcher, NOW + 0.010)
    assert decision.shed == []
    assert len(decision.batch) == 1


def test_a_probe_is_one_query_whatever_the_model_prefers():
    batcher = known_to_be_slow(*[query(0.050) for _ in range(10)])
    batcher.options = ServingOptions(preferred_batch_sizes=(1, 4))
    decision = decide(batcher)
    assert len(decision.batch) == 1
    assert decision.reason is DispatchReason.PROBE


# Shedding on arrival.


def test_a_query_that_arrives_too_late_is_shed():
    batcher = batcher_of()
    assert batcher.refusal(query(0.1), NOW + 0.1, 1) is ShedReason.EXPIRED
    assert batcher.refusal(query(0.1), NOW + 0.09, 1) is None


def test_the_limit_of_the_queue_counts_rows():
    batcher = batcher_of(query(rows=6), max_queue_size=8)
    assert batcher.refusal(query(rows=2), NOW, 1) is None
    assert batcher.refusal(query(rows=3), NOW, 1) is ShedReason.QUEUE_FULL
    decide(batcher)
    assert batcher.refusal(query(rows=3), NOW, 1) is None


def test_an_empty_queue_takes_a_query_of_any_size():
    assert batcher_of(max_queue_size=8).refusal(query(rows=9), NOW, 1) is None


def test_the_queue_limit_of_the_model_overrides_that_of_the_frontend():
    for max_queue_size, limit in ((None, 5), (2, 2), (50, 50)):
        batcher = Batcher(ServingOptions(max_queue_size=max_queue_size), default_queue_rows=5)
        assert batcher.max_queue_rows == limit
        while batcher.refusal(query(), NOW, 0) is None:
            batcher.push(query())
        assert batcher.queue.num_rows == limit


def test_a_hopeless_query_is_shed_on_arrival():
    batcher = hybrid_of(*[query(10.0) for _ in range(1000)])
    assert batcher.refusal(query(0.050), NOW, 4) is ShedReason.HOPELESS
    assert batcher.refusal(query(5.0), NOW, 4) is None


def test_no_query_is_hopeless_without_a_ready_replica():
    assert hybrid_of().refusal(query(0.001), NOW, 0) is None


def test_a_hopeless_query_is_admitted_after_a_while_without_a_batch():
    batcher = hybrid_of()
    for waited_s, refusal in ((0.2, ShedReason.HOPELESS), (0.3, None)):
        now = NOW + waited_s
        assert batcher.refusal(query(0.005, arrival=now), now, 4) is refusal


def test_queries_that_idle_replicas_can_answer_are_admitted():
    batcher = hybrid_of()
    # Four replicas compute batches of 60 rows in 40 ms at the same time.
    for _ in range(4 * 60):
        each = query(0.050)
        assert batcher.refusal(each, NOW, 4, 4) is None
        batcher.push(each)


def test_the_expected_wait_grows_with_the_queue_and_falls_with_the_replicas():
    batcher = hybrid_of()
    assert batcher.expected_wait_s(4) == 0.0
    waits = []
    for _ in range(3):
        for _ in range(64):
            batcher.push(query())
        waits.append(batcher.expected_wait_s(2))
    assert waits == pytest.approx([0.021, 0.042, 0.063])
    assert batcher.expected_wait_s(6) == pytest.approx(0.021)
    assert batcher.expected_wait_s(0) == batcher.expected_wait_s(1)


# The instant at which a batch is sent, and the options of the model that change it.


def holding(num_queries: int = 2, **options: object) -> Batcher:
    """Return a batcher whose policy holds its queries for some milliseconds."""
    return hybrid_of(*[query(0.1) for _ in range(num_queries)], rows_per_s=3500.0, **options)


def test_held_queries_are_sent_at_the_end_of_the_hold():
    batcher = holding()
    decision = decide(batcher)
    assert (decision.batch, decision.shed) == ([], [])
    assert NOW < decision.wait_until < NOW + 0.09
    assert len(decide(batcher, decision.wait_until - 1e-6).batch) == 0
    sent = decide(batcher, decision.wait_until)
    assert len(sent.batch) == 2
    assert sent.reason is DispatchReason.FRONTRUN


def test_held_queries_are_sent_once_enough_have_arrived():
    batcher = holding()
    assert decide(batcher).batch == []
    for _ in range(40):
        batcher.push(query(0.1))
    decision = decide(batcher)
    assert len(decision.batch) == 42
    assert decision.reason is DispatchReason.TARGET


def test_the_queue_delay_bounds_every_hold():
    batcher = holding(max_queue_delay_s=0.002)
    assert decide(batcher).wait_until == pytest.approx(NOW + 0.002)
    decision = decide(batcher, NOW + 0.0021)
    assert len(decision.batch) == 2
    assert decision.reason is DispatchReason.DELAY


def test_a_queue_delay_of_0_does_not_hold_batches():
    assert len(decide(holding(max_queue_delay_s=0.0)).batch) == 2


def test_a_queue_delay_does_not_hold_a_batch_that_the_policy_sends():
    assert len(decide(batcher_of(query(), max_queue_delay_s=0.5)).batch) == 1
    assert len(decide(hybrid_of(query(), max_queue_delay_s=0.5)).batch) == 1


def test_a_long_queue_delay_does_not_lengthen_a_hold():
    assert decide(holding(max_queue_delay_s=10.0)).wait_until == decide(holding()).wait_until


@pytest.mark.parametrize("policy", [PolicyName.EAGER, PolicyName.FIXED, PolicyName.HYBRID])
@pytest.mark.parametrize(
    ("num_waiting", "num_sent"), [(1, 0), (3, 0), (4, 4), (7, 4), (8, 8), (9, 8), (30, 8)]
)
def test_preferred_sizes_are_sent_at_once_and_others_wait(policy, num_waiting, num_sent):
    queries = [query() for _ in range(num_waiting)]
    batcher = hybrid_of(
        *queries, policy=policy, preferred_batch_sizes=(4, 8), max_queue_delay_s=0.010
    )
    decision = decide(batcher)
    assert decision.batch == queries[:num_sent]
    if num_sent:
        assert decision.reason is DispatchReason.PREFERRED
    else:
        assert decision.wait_until == pytest.approx(NOW + 0.010)
        sent = decide(batcher, NOW + 0.0101)
        assert sent.batch == queries
        assert sent.reason is not DispatchReason.PREFERRED


def test_preferred_sizes_without_a_delay_do_not_hold_queries():
    queries = [query() for _ in range(3)]
    assert decide(batcher_of(*queries, preferred_batch_sizes=(4, 8))).batch == queries


def test_a_query_larger_than_the_preferred_sizes_may_share_a_batch():
    queries = [query(rows=10), query(), query()]
    assert decide(batcher_of(*queries, preferred_batch_sizes=(4, 8))).batch == queries


def test_preferred_sizes_count_rows():
    batcher = batcher_of(
        *[query(rows=3) for _ in range(3)], preferred_batch_sizes=(6, 9), max_queue_delay_s=0.010
    )
    assert sum(each.rows for each in decide(batcher).batch) == 9


def test_a_batch_is_not_held_for_a_preferred_size_that_would_be_late():
    queries = [query(0.0131, arrival=NOW) for _ in range(9)]
    batcher = hybrid_of(*queries, rows_per_s=1e6, preferred_batch_sizes=(4, 8))
    # 6 rows take 13 ms.
    decision = decide(batcher)
    assert len(decision.batch) == 4
    assert decision.reason is DispatchReason.PREFERRED


def test_preferred_sizes_do_not_hold_a_full_batch():
    too_large = [query(rows=10) for _ in range(7)]
    batcher = batcher_of(
        *too_large,
        max_batch_size=64,
        preferred_batch_sizes=(8,),
        max_queue_delay_s=0.010,
        policy=PolicyName.FIXED,
    )
    assert decide(batcher).batch == too_large[:6]


# Changes of options.


def test_a_new_maximum_applies_from_the_next_batch_on():
    batcher = batcher_of(*[query() for _ in range(5)], max_batch_size=1)
    assert len(decide(batcher).batch) == 1
    batcher.options = ServingOptions(policy=PolicyName.EAGER, max_batch_size=3)
    assert batcher.options.max_batch_size == 3
    assert len(decide(batcher).batch) == 3


def test_a_new_policy_decides_on_queued_queries():
    batcher = batcher_of(query(), policy=PolicyName.FIXED, max_queue_delay_s=0.5)
    assert decide(batcher).batch == []
    batcher.options = ServingOptions(policy=PolicyName.EAGER)
    assert len(decide(batcher).batch) == 1


def test_latencies_outlive_a_change_of_the_policy():
    batcher = hybrid_of(*[query(0.0301) for _ in range(64)], rows_per_s=1e6)
    batcher.options = ServingOptions(policy=PolicyName.EAGER)
    batcher.options = ServingOptions(policy=PolicyName.HYBRID, max_batch_size=60)
    assert len(decide(batcher).batch) == 40


def test_equal_options_keep_the_state_of_the_policy():
    batcher = batcher_of(*[query() for _ in range(20)], policy=PolicyName.AIMD)
    for rows in (1, 3, 5):
        batcher.observe(rows, 0.001, 1.0, NOW)
    batcher.options = ServingOptions(policy=PolicyName.AIMD)
    assert len(decide(batcher).batch) == 7


def test_a_new_priority_step_applies_to_new_queries():
    batcher = batcher_of(max_batch_size=1, priority_step_s=0.0)
    batcher.options = ServingOptions(policy=PolicyName.EAGER, max_batch_size=1, priority_step_s=1.0)
    usual, urgent = query(), query(priority=1)
    for each in (usual, urgent):
        batcher.push(each)
    assert decide(batcher).batch == [urgent]


def test_a_new_queue_limit_applies_at_once():
    batcher = batcher_of(*[query() for _ in range(5)])
    assert batcher.refusal(query(), NOW, 1) is None
    batcher.options = ServingOptions(policy=PolicyName.EAGER, max_queue_size=5)
    assert batcher.refusal(query(), NOW, 1) is ShedReason.QUEUE_FULL


# Learning.


def test_the_profile_and_the_policy_learn_from_a_batch():
    batcher = batcher_of(*[query() for _ in range(20)], policy=PolicyName.AIMD)
    batcher.observe(1, 0.020, 1.0, NOW)
    assert batcher.profile.points() == [(1, 0.020)]
    assert len(decide(batcher).batch) == 3


def test_the_arrival_rate_does_not_count_requeued_rows():
    batcher = batcher_of(each := query(rows=10))
    before = batcher.rate.rows_per_s(NOW)
    assert before > 0
    decide(batcher)
    batcher.requeue(each)
    assert batcher.rate.rows_per_s(NOW) == before
