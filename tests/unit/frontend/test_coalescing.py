"""Identical queries are answered once, by the cache or together."""

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


def test_a_prediction_grows_old(frontend):
    ask(frontend)
    frontend.replica.answer()
    frontend.loop.advance(10.0)
    assert ask(frontend) not in frontend.settled


def test_what_is_asked_while_it_is_computed_shares_the_answer(frontend):
    queries = [ask(frontend) for _ in range(5)]
    assert frontend.replica.sizes == [1]
    frontend.replica.answer()
    assert ok(frontend, *queries)
    assert frontend.dispatcher.num_unsettled == 0


def test_an_error_is_shared_and_not_kept(frontend):
    first, second = ask(frontend), ask(frontend)
    frontend.replica.answer(function=failing(ModelFailed("no")))
    assert isinstance(frontend.settled[first].error, ModelFailed)
    assert isinstance(frontend.settled[second].error, ModelFailed)
    ask(frontend)
    assert frontend.replica.sizes == [1, 1]


def test_the_next_takes_over_where_the_first_is_cancelled_before_it_is_sent(frontend):
    frontend.replica.is_ready = False
    first, second, third = (ask(frontend) for _ in range(3))
    frontend.dispatcher.cancel(first)
    frontend.replica.revive()
    frontend.loop.turn()
    frontend.replica.answer()
    assert ok(frontend, second, third)
    assert first not in frontend.settled


def test_the_next_takes_over_where_the_deadline_of_the_first_passes(frontend):
    frontend.replica.is_ready = False
    first = ask(frontend, within_s=0.1)
    second = ask(frontend, within_s=5.0)
    frontend.loop.advance(0.2)
    assert frontend.settled[first].error is not None
    frontend.replica.revive()
    frontend.loop.turn()
    frontend.replica.answer()
    assert ok(frontend, second)


def test_a_late_answer_is_kept_and_answers_those_that_can_wait(frontend):
    first = ask(frontend, within_s=0.1)
    second = ask(frontend, within_s=5.0)
    frontend.loop.advance(0.2)
    assert frontend.settled[first].error is not None
    frontend.replica.answer()
    assert ok(frontend, second, ask(frontend))
    assert frontend.replica.sizes == [1]


def test_each_has_its_own_deadline(frontend):
    first = ask(frontend, within_s=5.0)
    second = ask(frontend, within_s=0.1)
    frontend.loop.advance(0.2)
    assert frontend.settled[second].error is not None
    frontend.replica.answer()
    assert ok(frontend, first)


def test_a_replica_that_is_lost_does_not_lose_those_that_share(frontend):
    first, second = ask(frontend, within_s=5.0), ask(frontend, within_s=5.0)
    frontend.dispatcher.cancel(first)
    frontend.replica.lose()
    frontend.replica.revive()
    frontend.loop.turn()
    frontend.replica.answer()
    assert ok(frontend, second)


def test_a_query_that_ends_replicas_is_not_asked_by_its_followers(frontend):
    queries = [ask(frontend, within_s=50.0) for _ in range(3)]
    for _ in range(3):
        frontend.replica.lose()
        frontend.replica.revive()
        frontend.loop.turn()
    assert frontend.replica.in_flight == []
    assert all(isinstance(frontend.settled[each].error, ModelFailed) for each in queries)


def test_a_version_that_is_gone_answers_nothing(frontend):
    ask(frontend)
    frontend.replica.answer()
    frontend.apply()
    frontend.apply(served(serving=cached))
    assert len(frontend.dispatcher.coalescing.cache) == 0
    assert ask(frontend) not in frontend.settled


def test_a_result_that_comes_after_its_version_is_gone_is_not_kept(frontend):
    old_replica = frontend.replica
    asked = ask(frontend)
    frontend.apply()
    old_replica.answer()
    assert ok(frontend, asked)
    assert len(frontend.dispatcher.coalescing.cache) == 0
    frontend.apply(served(serving=cached))
    assert ask(frontend) not in frontend.settled


# A version that is deployed again under its name, with other content.


def old_and_new() -> tuple[Frontend, ServedVersion]:
    old, new = (served(serving=cached, artifact_sha256=each) for each in ("old", "new"))
    return Frontend(old, cache=PredictionCache(1 << 20)), new


def test_other_content_is_not_answered_from_the_cache_of_the_old():
    frontend, new = old_and_new()
    ask(frontend)
    frontend.replica.answer()
    # In one step: a frontend that was cut off sees no snapshot without the version.
    frontend.apply(new)
    assert len(frontend.dispatcher.coalescing.cache) == 0
    assert ask(frontend) not in frontend.settled


def test_a_late_result_of_the_old_does_not_answer_for_other_content():
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


def test_a_lost_leader_of_the_old_leaves_other_content_alone():
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


def test_an_application_may_do_without():
    app = application("app", "m:1", slo_s=1.0, uses_cache=False)
    frontend = Frontend(served(serving=cached), cache=PredictionCache(1 << 20))
    for _ in range(2):
        ask(frontend, application=app)
        frontend.replica.answer()
    assert frontend.replica.sizes == [1, 1]


def test_a_model_caches_only_if_it_is_told_to():
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
def test_followers_of_a_version_that_goes_end_without_a_recursion(num_replicas):
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


def test_followers_of_a_lost_replica_of_a_version_that_is_gone_end_without_a_recursion():
    frontend = Frontend(served(serving=cached), max_queue_size=1000)
    queries = [frontend.submit(within_s=10.0) for _ in range(500)]
    frontend.loop.turn()
    frontend.apply()
    frontend.replica.lose()
    assert all(isinstance(frontend.settled[query].error, NoReadyReplica) for query in queries)
    assert frontend.dispatcher.num_unsettled == 0


def slow(num_replicas: int = 2) -> Frontend:
    """A version whose batches are known to take 80 ms; the first replica gets the first."""
    version = replace(served(serving=cached, num_replicas=2), latencies=((1, 0.08), (8, 0.08)))
    frontend = Frontend(version, cache=PredictionCache(1 << 20), with_replicas=False)
    for _ in range(num_replicas):
        frontend.add_replica()
    return frontend


def test_a_newcomer_is_not_black_holed_behind_a_leader_that_expired_at_a_hung_replica():
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


def test_a_follower_that_can_wait_is_asked_of_another_replica_once_the_batch_is_overdue():
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


def test_a_newcomer_that_the_batch_under_way_cannot_serve_in_time_is_computed_itself():
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


def test_a_more_urgent_newcomer_takes_the_place_of_its_leader_in_the_queue():
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
    # One was computed, whichever came first.
    (target,) = frontend.dispatcher.statistics.targets.values()
    assert target.cache == {"miss": 1, "shared": 1}


def test_a_late_error_of_an_earlier_leader_leaves_the_present_one_its_chance():
    frontend = slow()
    hung, healthy = frontend.replicas
    ask(frontend, within_s=0.1)
    frontend.loop.advance(0.2)
    second = ask(frontend, within_s=1.0)
    hung.answer(function=failing(ModelFailed("no")))
    assert second not in frontend.settled
    healthy.answer()
    assert ok(frontend, second)


def test_followers_count_as_queries_that_wait():
    frontend = Frontend(served(serving=cached), max_queue_size=10, with_replicas=False)
    queries = [ask(frontend, within_s=5.0) for _ in range(15)]
    refused = [query for query in queries if query in frontend.settled]
    assert refused == queries[10:]
    assert all(isinstance(frontend.settled[query].error, Overloaded) for query in refused)
    other = ask(frontend, within_s=5.0, rows=2)
    assert isinstance(frontend.settled[other].error, Overloaded)
    frontend.dispatcher.cancel(queries[5])
    assert ask(frontend, within_s=5.0) not in frontend.settled


def test_followers_hold_the_inputs_of_one():
    frontend = Frontend(served(serving=cached), with_replicas=False)
    queries = [ask(frontend, within_s=5.0) for _ in range(5)]
    assert len({id(query.inputs[0]) for query in queries}) == 1
    assert len({id(query.cache_key) for query in queries}) == 1


def test_nothing_is_kept_of_followers_that_expired_while_their_leader_is_computed():
    frontend = slow(1)
    ask(frontend, within_s=50.0)
    followers = [ask(frontend, within_s=1.0) for _ in range(50)]
    coalescing = frontend.dispatcher.coalescing
    (group,) = coalescing._groups.values()
    assert list(group.followers) == followers
    frontend.loop.advance(2.0)
    assert not group.followers
    assert coalescing.follower_rows == {}


def test_a_part_of_a_message_is_a_copy_in_the_cache(frontend):
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
