"""Identical queries are computed once, and answered from the cache or together."""

import sys
from dataclasses import replace

import pytest

from skysail_common.errors import ModelFailed, NoReadyReplica, Overloaded
from skysail_common.serving_options import ServingOptions
from skysail_frontend.core.batch import QueryOutputs
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.prediction_cache import PredictionCache
from skysail_frontend.core.query import Outcome
from skysail_frontend.core.routes import ServedVersion
from unit.frontend.parts import Frontend, application, failing, served

cached = ServingOptions(max_batch_size=8, cache_ttl_s=10.0)


@pytest.fixture
def frontend() -> Frontend:
    return Frontend(served(serving=cached), cache=PredictionCache(1 << 20))


def ask(frontend: Frontend, **options: object):
    query = frontend.submit(**options)
    frontend.loop.turn()
    return query


def ok(frontend: Frontend, *queries) -> bool:
    return all(
        query in frontend.settled and frontend.settled[query].outcome is Outcome.OK
        and frontend.settled[query].error is None
        for query in queries
    )  # fmt: skip


def test_the_same_inputs_are_computed_once(frontend):
    first = ask(frontend)
    frontend.replica.answer()
    second = ask(frontend)
    assert ok(frontend, first, second)
    assert frontend.replica.sizes == [1]
    assert frontend.settled[second].outputs == frontend.settled[first].outputs
    assert frontend.dispatcher.num_unsettled == 0


def test_other_inputs_are_computed(frontend):
    ask(frontend)
    frontend.replica.answer()
    ask(frontend, rows=2)
    assert frontend.replica.sizes == [1, 1]


def test_a_cached_prediction_expires(frontend):
    ask(frontend)
    frontend.replica.answer()
    frontend.loop.advance(10.0)
    assert ask(frontend) not in frontend.settled


def test_identical_queries_in_flight_share_one_answer(frontend):
    queries = [ask(frontend) for _ in range(5)]
    assert frontend.replica.sizes == [1]
    frontend.replica.answer()
    assert ok(frontend, *queries)
    assert frontend.dispatcher.num_unsettled == 0


def test_an_error_is_shared_but_not_cached(frontend):
    first, second = ask(frontend), ask(frontend)
    frontend.replica.answer(function=failing(ModelFailed("no")))
    assert isinstance(frontend.settled[first].error, ModelFailed)
    assert isinstance(frontend.settled[second].error, ModelFailed)
    ask(frontend)
    assert frontend.replica.sizes == [1, 1]


def test_a_follower_replaces_a_queued_leader_that_is_cancelled(frontend):
    frontend.replica.is_ready = False
    first, second, third = (ask(frontend) for _ in range(3))
    frontend.dispatcher.cancel(first)
    frontend.replica.revive()
    frontend.loop.turn()
    frontend.replica.answer()
    assert ok(frontend, second, third)
    assert first not in frontend.settled


def test_a_follower_replaces_a_leader_whose_deadline_passes(frontend):
    frontend.replica.is_ready = False
    first = ask(frontend, within_s=0.1)
    second = ask(frontend, within_s=5.0)
    frontend.loop.advance(0.2)
    assert frontend.settled[first].error is not None
    frontend.replica.revive()
    frontend.loop.turn()
    frontend.replica.answer()
    assert ok(frontend, second)


def test_a_late_answer_is_cached_and_settles_the_followers(frontend):
    first = ask(frontend, within_s=0.1)
    second = ask(frontend, within_s=5.0)
    frontend.loop.advance(0.2)
    assert frontend.settled[first].error is not None
    frontend.replica.answer()
    assert ok(frontend, second, ask(frontend))
    assert frontend.replica.sizes == [1]


def test_a_follower_keeps_its_own_deadline(frontend):
    first = ask(frontend, within_s=5.0)
    second = ask(frontend, within_s=0.1)
    frontend.loop.advance(0.2)
    assert frontend.settled[second].error is not None
    frontend.replica.answer()
    assert ok(frontend, first)


def test_followers_survive_a_lost_replica(frontend):
    first, second = ask(frontend, within_s=5.0), ask(frontend, within_s=5.0)
    frontend.dispatcher.cancel(first)
    frontend.replica.lose()
    frontend.replica.revive()
    frontend.loop.turn()
    frontend.replica.answer()
    assert ok(frontend, second)


def test_followers_fail_with_a_query_that_kills_replicas(frontend):
    queries = [ask(frontend, within_s=50.0) for _ in range(3)]
    for _ in range(3):
        frontend.replica.lose()
        frontend.replica.revive()
        frontend.loop.turn()
    assert frontend.replica.in_flight == []
    assert all(isinstance(frontend.settled[each].error, ModelFailed) for each in queries)


def test_a_removed_version_answers_no_query(frontend):
    ask(frontend)
    frontend.replica.answer()
    frontend.apply()
    frontend.apply(served(serving=cached))
    assert len(frontend.dispatcher.coalescing.cache) == 0
    assert ask(frontend) not in frontend.settled


def test_a_result_of_a_removed_version_is_not_cached(frontend):
    old_replica = frontend.replica
    asked = ask(frontend)
    frontend.apply()
    old_replica.answer()
    assert ok(frontend, asked)
    assert len(frontend.dispatcher.coalescing.cache) == 0
    frontend.apply(served(serving=cached))
    assert ask(frontend) not in frontend.settled


# Redeployed versions with other content.


def old_and_new() -> tuple[Frontend, ServedVersion]:
    old, new = (served(serving=cached, artifact_sha256=each) for each in ("old", "new"))
    return Frontend(old, cache=PredictionCache(1 << 20)), new


def test_redeployed_content_is_not_answered_from_the_old_cache():
    frontend, new = old_and_new()
    ask(frontend)
    frontend.replica.answer()
    # The change is one step: a disconnected frontend sees no snapshot without the version.
    frontend.apply(new)
    assert len(frontend.dispatcher.coalescing.cache) == 0
    assert ask(frontend) not in frontend.settled


def test_a_late_result_of_old_content_does_not_settle_queries_of_new_content():
    frontend, new = old_and_new()
    old_replica = frontend.replica
    asked = ask(frontend)
    frontend.apply(new)
    replica = frontend.add_replica()
    leader, follower = ask(frontend), ask(frontend)
    old_replica.answer()
    assert ok(frontend, asked)
    assert leader not in frontend.settled
    later = ask(frontend)
    assert replica.sizes == [1]
    replica.answer(function=lambda query: QueryOutputs([bytes(24)], [(1, 3)]))
    for query in (leader, follower, later, ask(frontend)):
        assert frontend.settled[query].outputs == [bytes(24)]


def test_a_lost_leader_of_old_content_does_not_affect_new_content():
    frontend, new = old_and_new()
    old_replica = frontend.replica
    leader, follower = ask(frontend), ask(frontend)
    frontend.apply(new)
    replica = frontend.add_replica()
    old_replica.lose()
    frontend.loop.turn()
    assert replica.sent == []
    assert isinstance(frontend.settled[leader].error, NoReadyReplica)
    assert isinstance(frontend.settled[follower].error, NoReadyReplica)


def test_an_application_may_bypass_the_cache():
    app = application("app", "m:1", slo_s=1.0, uses_cache=False)
    frontend = Frontend(served(serving=cached), cache=PredictionCache(1 << 20))
    for _ in range(2):
        ask(frontend, application=app)
        frontend.replica.answer()
    assert frontend.replica.sizes == [1, 1]


def test_a_model_caches_only_if_caching_is_enabled():
    frontend = Frontend(served(), cache=PredictionCache(1 << 20))
    for _ in range(2):
        ask(frontend)
        frontend.replica.answer()
    assert frontend.replica.sizes == [1, 1]


def test_hits_are_counted_by_application(frontend):
    app = application("app", "m:1", slo_s=1.0)
    ask(frontend, application=app)
    ask(frontend, application=app)
    frontend.replica.answer()
    ask(frontend, application=app)
    (target,) = frontend.dispatcher.statistics.targets.values()
    assert dict(target.cache) == {"miss": 1, "shared": 1, "hit": 1}
    assert target.outcomes == {"OK": 3}


# Leaders that fail their followers.


def frames() -> int:
    frame, number = sys._getframe(), 0
    while frame is not None:
        frame, number = frame.f_back, number + 1
    return number


@pytest.mark.parametrize("num_replicas", [None, 0])
def test_followers_of_a_removed_version_are_settled_without_recursion(num_replicas):
    frontend = Frontend(served(serving=cached), max_queue_size=1000, with_replicas=False)
    depths = []
    for _ in range(500):
        query = frontend.query(within_s=10.0)
        query.settle = lambda *_: depths.append(frames())
        frontend.dispatcher.submit(query)
    frontend.apply(*[served(serving=cached, num_replicas=0)] if num_replicas == 0 else [])
    assert len(depths) == 500
    assert max(depths) < frames() + 15
    assert frontend.dispatcher.num_unsettled == 0


def test_followers_at_a_lost_replica_of_a_removed_version_are_settled_without_recursion():
    frontend = Frontend(served(serving=cached), max_queue_size=1000)
    queries = [frontend.submit(within_s=10.0) for _ in range(500)]
    frontend.loop.turn()
    frontend.apply()
    frontend.replica.lose()
    assert all(isinstance(frontend.settled[query].error, NoReadyReplica) for query in queries)
    assert frontend.dispatcher.num_unsettled == 0


def slow(num_replicas: int = 2) -> Frontend:
    """Return a frontend whose version has a known latency of 80 ms."""
    version = replace(served(serving=cached, num_replicas=2), latencies=((1, 0.08), (8, 0.08)))
    frontend = Frontend(version, cache=PredictionCache(1 << 20), with_replicas=False)
    for _ in range(num_replicas):
        frontend.add_replica()
    return frontend


def test_a_new_query_does_not_follow_an_expired_leader_at_a_hung_replica():
    frontend = slow()
    hung, healthy = frontend.replicas
    first = ask(frontend, within_s=0.1)
    frontend.loop.advance(0.2)
    assert frontend.settled[first].error is not None
    for _ in range(20):
        frontend.loop.advance(10.0)
        newcomer = ask(frontend, within_s=0.1)
        assert healthy.in_flight[0].queries == [newcomer]
        healthy.answer(compute_s=0.05)
        assert ok(frontend, newcomer)
    assert hung.sizes == [1]


def test_a_follower_of_an_overdue_leader_is_hedged():
    frontend = slow()
    _, healthy = frontend.replicas
    first, second = ask(frontend, within_s=0.1), ask(frontend, within_s=5.0)
    frontend.loop.advance(0.16)
    assert first in frontend.settled
    assert healthy.sent == []
    frontend.loop.advance(0.01)
    assert healthy.sent[0].queries == [second]
    healthy.answer()
    assert ok(frontend, second)


def test_a_query_more_urgent_than_the_batch_in_flight_is_computed_itself():
    frontend = slow()
    frontend.version().batcher.profile = LatencyProfile([(1, 0.02), (8, 0.2)])
    large = frontend.submit(within_s=5.0, rows=7)
    first = ask(frontend, within_s=5.0)
    hurried = ask(frontend, within_s=0.1)
    patient = ask(frontend, within_s=5.0)
    assert [replica.sizes for replica in frontend.replicas] == [[2], [1]]
    frontend.replicas[1].answer()
    assert ok(frontend, hurried, patient)
    frontend.replicas[0].answer()
    assert ok(frontend, large, first)


def test_a_more_urgent_query_replaces_its_queued_leader():
    frontend = slow()
    for replica in frontend.replicas:
        replica.is_ready = False
    patient = ask(frontend, within_s=5.0)
    urgent = ask(frontend, within_s=0.2)
    frontend.replicas[0].revive()
    frontend.loop.turn()
    assert [batch.queries for batch in frontend.replicas[0].sent] == [[urgent]]
    frontend.replicas[0].answer()
    assert ok(frontend, patient, urgent)
    assert len(frontend.version().queue) == 0
    # One query was computed, and the other shared its answer.
    (target,) = frontend.dispatcher.statistics.targets.values()
    assert target.cache == {"miss": 1, "shared": 1}


def test_a_late_error_of_a_former_leader_does_not_fail_the_present_one():
    frontend = slow()
    hung, healthy = frontend.replicas
    ask(frontend, within_s=0.1)
    frontend.loop.advance(0.2)
    second = ask(frontend, within_s=1.0)
    hung.answer(function=failing(ModelFailed("no")))
    assert second not in frontend.settled
    healthy.answer()
    assert ok(frontend, second)


def test_followers_count_as_queued():
    frontend = Frontend(served(serving=cached), max_queue_size=10, with_replicas=False)
    queries = [ask(frontend, within_s=5.0) for _ in range(15)]
    refused = [query for query in queries if query in frontend.settled]
    assert refused == queries[10:]
    assert all(isinstance(frontend.settled[query].error, Overloaded) for query in refused)
    other = ask(frontend, within_s=5.0, rows=2)
    assert isinstance(frontend.settled[other].error, Overloaded)
    frontend.dispatcher.cancel(queries[5])
    assert ask(frontend, within_s=5.0) not in frontend.settled


def test_followers_share_the_inputs_of_their_leader():
    frontend = Frontend(served(serving=cached), with_replicas=False)
    queries = [ask(frontend, within_s=5.0) for _ in range(5)]
    assert len({id(query.inputs[0]) for query in queries}) == 1
    assert len({id(query.cache_key) for query in queries}) == 1


def test_followers_that_expired_before_their_leader_are_forgotten():
    frontend = slow(1)
    ask(frontend, within_s=50.0)
    followers = [ask(frontend, within_s=1.0) for _ in range(50)]
    coalescing = frontend.dispatcher.coalescing
    (group,) = coalescing._groups.values()
    assert list(group.followers) == followers
    frontend.loop.advance(2.0)
    assert not group.followers
    assert coalescing.follower_rows == {}


def test_the_cache_holds_a_copy_of_a_view(frontend):
    first = frontend.query()
    (data,) = first.inputs
    first.inputs = (memoryview(data),)
    frontend.dispatcher.submit(first)
    frontend.loop.turn()
    frontend.replica.answer()
    second = ask(frontend)
    assert ok(frontend, first, second)
    assert frontend.replica.sizes == [1]
    assert all(type(part) is bytes for part in first.cache_key[1])
