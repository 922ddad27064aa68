from dataclasses import replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.clock import NEVER
from skysail_common.states import ReplicaState
from skysail_management.reconciler.plan import (
    FIRST_BACK_OFF_S,
    MAX_BACK_OFF_S,
    Failures,
    ObservedReplica,
    ReplicaPlan,
    Stop,
    back_off_s,
    plan_replicas,
)
from skysail_testing.examples import examples

START_TIMEOUT_S = 60.0
NOW = 1000.0
LIVE = (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)

containers = st.lists(
    st.builds(
        ObservedReplica,
        container_id=st.uuids().map(str),
        index=st.integers(0, 6),
        state=st.sampled_from(LIVE),
        since=st.floats(0, NOW),
    ),
    max_size=12,
    unique_by=lambda item: item.container_id,
)
histories = st.dictionaries(
    st.integers(0, 6), st.builds(Failures, count=st.integers(1, 99), last=st.floats(0, NOW))
)


def ready(name: str, index: int, since: float = 0.0) -> ObservedReplica:
    return ObservedReplica(name, index, ReplicaState.READY, since)


def starting(name: str, index: int, since: float = NOW) -> ObservedReplica:
    return ObservedReplica(name, index, ReplicaState.STARTING, since)


def draining(name: str, index: int) -> ObservedReplica:
    return ObservedReplica(name, index, ReplicaState.DRAINING, 0.0)


def planned(
    num_replicas: int, *observed: ObservedReplica, failures=None, now: float = NOW
) -> ReplicaPlan:
    return plan_replicas(num_replicas, START_TIMEOUT_S, observed, failures or {}, now)


def test_missing_replicas_are_started():
    assert planned(3) == ReplicaPlan(start=(0, 1, 2))


def test_matching_state_needs_no_action():
    assert planned(2, ready("a", 0), ready("b", 1)) == ReplicaPlan()


def test_missing_index_is_started():
    assert planned(3, ready("a", 0), ready("c", 2)) == ReplicaPlan(start=(1,))


def test_scale_down_stops_the_highest_indexes():
    done = planned(1, ready("a", 0), ready("b", 1), starting("c", 2))
    assert done == ReplicaPlan(
        stop=(Stop("b", "no longer wanted"), Stop("c", "no longer wanted")), wake_at=NEVER
    )


def test_undeployed_version_stops_everything():
    assert planned(0, ready("a", 0), draining("b", 1)) == ReplicaPlan(
        stop=(Stop("a", "no longer wanted"),)
    )


def test_ready_container_keeps_a_shared_index():
    done = planned(1, starting("old", 0, since=NOW - 50), ready("new", 0, since=NOW - 1))
    assert done.stop == (Stop("old", "another holds its index"),)
    assert done.start == ()


def test_oldest_ready_container_keeps_a_shared_index():
    done = planned(1, ready("new", 0, since=5.0), ready("old", 0, since=4.0))
    assert done.stop == (Stop("new", "another holds its index"),)


def test_draining_container_keeps_its_index():
    assert planned(1, draining("a", 0)) == ReplicaPlan()
    explain_start_timeout = starting("a", 0, since=NOW - START_TIMEOUT_S)
    assert planned(1, explain_start_timeout).start == ()


def test_start_timeout_stops_a_replica_as_failed():
    late = starting("a", 0, since=NOW - START_TIMEOUT_S)
    assert planned(1, late) == ReplicaPlan(
        stop=(Stop("a", "not ready within 60 s", is_failure=True),)
    )


def test_plan_wakes_at_the_start_timeout():
    done = planned(2, starting("a", 0, since=NOW - 10), starting("b", 1, since=NOW - 20))
    assert done == ReplicaPlan(wake_at=NOW + 40)


def test_failed_replica_waits_for_its_backoff():
    failures = {0: Failures(1, NOW)}
    waiting = planned(1, failures=failures)
    assert waiting == ReplicaPlan(wake_at=NOW + FIRST_BACK_OFF_S)
    assert planned(1, failures=failures, now=waiting.wake_at) == ReplicaPlan(start=(0,))


def test_failed_replica_does_not_block_others():
    done = planned(3, failures={1: Failures(9, NOW)})
    assert done.start == (0, 2)
    assert done.wake_at == NOW + MAX_BACK_OFF_S


def test_backoff_doubles_from_half_a_second_to_a_minute():
    assert [back_off_s(n) for n in range(10)] == [0, 0.5, 1, 2, 4, 8, 16, 32, 60, 60]


def test_backoff_of_a_once_ready_replica_is_at_most_five_seconds():
    assert [back_off_s(n, was_ready=True) for n in range(7)] == [0, 0.5, 1, 2, 4, 5, 5]
    done = planned(1, failures={0: Failures(9, NOW, was_ready=True)})
    assert done == ReplicaPlan(wake_at=NOW + 5)


@given(st.integers(-5, 10**9))
def test_backoff_is_bounded_and_never_shrinks(num_failures: int):
    wait_s = back_off_s(num_failures)
    assert 0 <= wait_s <= MAX_BACK_OFF_S
    assert wait_s <= back_off_s(num_failures + 1)
    assert (wait_s == 0) == (num_failures <= 0)
    assert back_off_s(num_failures, was_ready=True) <= wait_s


@settings(max_examples=examples(50))
@given(st.integers(0, 6), containers, histories)
def test_plan_keeps_its_invariants(num_replicas, observed, failures):
    done = plan_replicas(num_replicas, START_TIMEOUT_S, observed, failures, NOW)
    taken = {item.index for item in observed}
    assert not taken & set(done.start), "an index that is live or draining is never started"
    assert list(done.start) == sorted(set(done.start))
    assert all(0 <= index < num_replicas for index in done.start)
    by_id = {item.container_id: item for item in observed}
    stopped = [stop.container_id for stop in done.stop]
    assert len(stopped) == len(set(stopped))
    assert all(by_id[name].state is not ReplicaState.DRAINING for name in stopped)
    staying = [
        item.index
        for item in observed
        if item.container_id not in stopped and item.state is not ReplicaState.DRAINING
    ]
    assert len(staying) == len(set(staying)), "two that stay never hold one index"
    assert all(index < num_replicas for index in staying)
    assert done.wake_at > NOW, "a plan that must be looked at again at once would spin"
    for index in set(range(num_replicas)) - taken - set(done.start):
        assert done.wake_at <= NOW + MAX_BACK_OFF_S, f"{index} is not forgotten"


@settings(max_examples=examples(50))
@given(st.integers(0, 6), containers, histories)
def test_plan_never_stops_the_last_ready_replica_of_an_index(num_replicas, observed, failures):
    done = plan_replicas(num_replicas, START_TIMEOUT_S, observed, failures, NOW)
    stopped = {stop.container_id for stop in done.stop}
    for index in range(num_replicas):
        holders = [
            item for item in observed if item.index == index and item.state is ReplicaState.READY
        ]
        if holders:
            assert any(item.container_id not in stopped for item in holders)


@settings(max_examples=examples(30))
@given(
    wanted=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    observed=containers,
    failures=histories,
    data=st.data(),
)
def test_repeated_plans_converge_to_contiguous_indexes(wanted, observed, failures, data):
    names = count()
    now = NOW
    for num_replicas in wanted:
        for _ in range(80):
            done = plan_replicas(num_replicas, START_TIMEOUT_S, observed, failures, now)
            if not done.start and not done.stop and done.wake_at == NEVER:
                still = [item for item in observed if item.state is ReplicaState.DRAINING]
                if not still:
                    break
            for stop in done.stop:
                if stop.is_failure:
                    index = next(i.index for i in observed if i.container_id == stop.container_id)
                    failures = {**failures, index: Failures(1, now)}
            observed = list(_world(observed, done, now, names, data))
            now += 1.0
        assert sorted(item.index for item in observed) == list(range(num_replicas))
        assert all(item.state is ReplicaState.READY for item in observed)


def _world(observed, done: ReplicaPlan, now: float, names, data):
    """Yield the containers after a plan was applied: drained, ready, newly started."""
    stopped = {stop.container_id for stop in done.stop}
    for item in observed:
        if item.container_id in stopped:
            if data.draw(st.booleans(), label="drains slowly"):
                yield replace(item, state=ReplicaState.DRAINING, since=now)
        elif item.state is ReplicaState.STARTING:
            yield replace(item, state=ReplicaState.READY, since=now)
        elif item.state is ReplicaState.READY:
            yield item
    for index in done.start:
        yield ObservedReplica(f"new-{next(names)}", index, ReplicaState.STARTING, now)
