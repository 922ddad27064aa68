"""Identical queries are answered once, by the cache or together."""

import pytest

from skysail_common.errors import ModelFailed, NoReadyReplica
from skysail_common.serving_options import ServingOptions
from skysail_frontend.prediction_cache import PredictionCache
from skysail_frontend.query import Outcome
from skysail_frontend.routes import ServedVersion
from skysail_frontend.version_dispatcher import QueryOutputs
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
    assert len(frontend.dispatcher.caching.cache) == 0
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
    assert len(frontend.dispatcher.caching.cache) == 0
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
