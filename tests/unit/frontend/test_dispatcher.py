import numpy as np
import pytest

from skysail_common.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    ModelNotFound,
    NoReadyReplica,
    Overloaded,
)
from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.batch import QueryError
from skysail_frontend.core.batching.batcher import LAST_ATTEMPT
from skysail_frontend.core.query import Outcome, Prediction, Query
from skysail_frontend.core.shedding import NO_MODEL, TOO_LATE
from unit.frontend.parts import Frontend, application, doubled, failing, served

with_default = application("with-default", "m:1", default=[0.0])
without_default = application("without-default", "m:1")


@pytest.fixture
def frontend() -> Frontend:
    return Frontend(served())


def check_failed(
    frontend: Frontend, query: Query, outcome: Outcome, error: type[Exception]
) -> Prediction:
    """Assert that a query got its default output, or an error if it has none."""
    prediction = frontend.settled[query]
    assert prediction.outcome is outcome
    assert prediction.is_default
    assert prediction.outputs == ()
    if query.application is with_default:
        assert prediction.error is None
        assert prediction.explanation
    else:
        assert type(prediction.error) is error
    return prediction


# Batches.


def test_queries_of_one_turn_form_one_batch(frontend):
    queries = [frontend.submit() for _ in range(5)]
    assert frontend.replica.sent == []
    frontend.loop.turn()
    assert [batch.queries for batch in frontend.replica.sent] == [queries]


def test_queries_that_arrive_during_a_batch_form_the_next_one(frontend):
    frontend.submit()
    frontend.loop.turn()
    frontend.submit()
    frontend.loop.turn()
    assert frontend.replica.sizes == [1]
    frontend.replica.answer()
    frontend.loop.turn()
    assert frontend.replica.sizes == [1, 1]
    first, second = frontend.replica.sent
    assert first.batch_id != second.batch_id


def test_a_batch_is_ordered_by_deadline(frontend):
    late, soon = frontend.submit(within_s=2.0), frontend.submit(within_s=1.0)
    frontend.loop.turn()
    assert frontend.replica.sent[0].queries == [soon, late]


def test_each_version_forms_its_own_batches():
    frontend = Frontend(served("m:1"), served("n:1"))
    ours, others = frontend.submit("m:1"), frontend.submit("n:1")
    frontend.loop.turn()
    assert [replica.sent[0].queries for replica in frontend.replicas] == [[ours], [others]]


def test_each_query_gets_its_part_of_the_result_and_its_times(frontend):
    first = frontend.submit(rows=1)
    frontend.clock.advance(0.010)
    second = frontend.submit(rows=2)
    frontend.clock.advance(0.001)
    frontend.loop.turn()
    frontend.clock.advance(0.006)
    frontend.replica.answer(compute_s=0.004)
    for query, queue_s, total_s in ((first, 0.011, 0.017), (second, 0.001, 0.007)):
        prediction = frontend.settled[query]
        assert prediction.outcome is Outcome.OK
        assert prediction.error is None
        assert not prediction.is_default
        assert prediction.shapes == [(query.rows, 3)]
        numbers = np.frombuffer(prediction.outputs[0])
        assert numbers.tolist() == (np.arange(3.0 * query.rows) * 2).tolist()
        assert prediction.queue_s == pytest.approx(queue_s)
        assert prediction.compute_s == 0.004
        assert prediction.batch_wait_s == pytest.approx(0.002)
        assert prediction.total_s == pytest.approx(total_s)
    assert frontend.dispatcher.num_unsettled == 0


def test_the_batch_wait_is_never_negative(frontend):
    query = frontend.submit()
    frontend.loop.turn()
    frontend.replica.answer(compute_s=0.5)
    assert frontend.settled[query].batch_wait_s == 0.0


def test_a_settled_query_frees_its_inputs(frontend):
    answered, cancelled = frontend.submit(), frontend.submit()
    frontend.dispatcher.cancel(cancelled)
    frontend.loop.turn()
    frontend.replica.answer()
    assert answered.inputs == cancelled.inputs == ()


def test_two_batches_are_in_flight_if_the_model_is_fast():
    frontend = Frontend(served(max_batch_size=2))
    for _ in range(10):
        frontend.submit()
    frontend.loop.turn()
    assert frontend.replica.sizes == [2, 2]
    frontend.replica.answer(compute_s=0.001)
    frontend.loop.turn()
    assert frontend.replica.num_in_flight == 2


def test_one_batch_is_in_flight_once_the_model_is_known_to_be_slow():
    frontend = Frontend(served(max_batch_size=1))
    for _ in range(10):
        frontend.submit(within_s=10.0)
    frontend.loop.turn()
    while frontend.replica.in_flight:
        frontend.replica.answer(compute_s=0.030)
    frontend.loop.turn()
    assert frontend.replica.num_in_flight == 1
    # The estimate also follows the model back.
    for _ in range(100):
        frontend.submit(within_s=10.0)
        frontend.loop.turn()
        frontend.replica.answer(compute_s=0.0001)
    frontend.loop.turn()
    assert frontend.replica.num_in_flight == 2


def test_the_replica_with_the_fewest_batches_in_flight_is_chosen():
    frontend = Frontend(served(max_batch_size=1, num_replicas=3))
    first = frontend.replicas[0]
    second, third = frontend.add_replica(), frontend.add_replica()
    third.is_ready = False
    in_flight = []
    for _ in range(5):
        frontend.submit()
        frontend.loop.turn()
        in_flight.append((first.num_in_flight, second.num_in_flight, third.num_in_flight))
    assert in_flight == [(1, 0, 0), (1, 1, 0), (2, 1, 0), (2, 2, 0), (2, 2, 0)]


def test_an_answer_frees_the_replica_for_queued_queries():
    frontend = Frontend(served(max_batch_size=1))
    queries = [frontend.submit() for _ in range(3)]
    frontend.loop.turn()
    frontend.replica.answer()
    assert frontend.replica.sizes == [1, 1]
    frontend.loop.turn()
    assert frontend.replica.sent[2].queries == [queries[2]]


def test_a_failed_query_does_not_fail_the_others_of_its_batch(frontend):
    good, bad, worse = frontend.submit(), frontend.submit(), frontend.submit()
    bad.application = with_default
    frontend.loop.turn()

    def function(query):
        return doubled(query) if query is good else QueryError(InvalidInput("too long"))

    frontend.replica.answer(function=function)
    assert frontend.settled[good].outcome is Outcome.OK
    prediction = check_failed(frontend, bad, Outcome.DEFAULT_MODEL_ERROR, InvalidInput)
    assert prediction.explanation == "the model failed: too long"
    prediction = check_failed(frontend, worse, Outcome.DEFAULT_MODEL_ERROR, InvalidInput)
    assert prediction.error.message == "too long"


# Deadlines.


@pytest.mark.parametrize("app", [None, without_default, with_default])
def test_a_query_in_flight_expires_at_its_deadline(frontend, app):
    query = frontend.submit(within_s=0.1, application=app)
    frontend.loop.turn()
    frontend.loop.advance(0.099)
    assert query not in frontend.settled
    frontend.loop.advance(0.002)
    prediction = check_failed(frontend, query, Outcome.DEFAULT_DEADLINE, DeadlineExceeded)
    assert prediction.total_s == pytest.approx(0.1, abs=0.001)
    if app is with_default:
        assert prediction.explanation == TOO_LATE
    else:
        assert prediction.error.message == "model 'm:1' did not answer within 0.1 s"


def test_a_queued_query_expires_at_its_deadline_and_frees_its_place():
    frontend = Frontend(served(max_batch_size=1))
    for _ in range(2):
        frontend.submit(within_s=10.0)
    frontend.loop.turn()
    waiting = frontend.submit(within_s=0.1, application=with_default)
    frontend.loop.advance(0.2)
    check_failed(frontend, waiting, Outcome.DEFAULT_DEADLINE, DeadlineExceeded)
    assert len(frontend.version().queue) == 0
    frontend.replica.answer()
    frontend.loop.turn()
    assert frontend.replica.sizes == [1, 1]


def test_a_late_answer_is_ignored(frontend):
    query = frontend.submit(within_s=0.1)
    frontend.loop.turn()
    frontend.loop.advance(0.2)
    frontend.replica.answer()
    check_failed(frontend, query, Outcome.DEFAULT_DEADLINE, DeadlineExceeded)
    assert frontend.dispatcher.num_unsettled == 0


def test_each_query_expires_at_its_own_deadline(frontend):
    frontend.replica.is_ready = False
    deadlines = [0.3, 0.1, 0.2, 0.1]
    queries = [frontend.submit(within_s=each) for each in deadlines]
    for query in queries:
        frontend.loop.run_until(query.arrival + 0.05)
    for now in (0.1, 0.2, 0.3):
        frontend.loop.run_until(queries[0].arrival + now)
        expected = [each for each, within in zip(queries, deadlines, strict=True) if within <= now]
        assert [each for each in queries if each in frontend.settled] == expected


def test_a_query_that_arrives_after_its_deadline_is_shed_at_once(frontend):
    query = frontend.submit(within_s=-0.5, application=with_default)
    check_failed(frontend, query, Outcome.DEFAULT_DEADLINE, DeadlineExceeded)
    frontend.loop.turn()
    assert frontend.replica.sent == []


@pytest.mark.parametrize("app", [None, with_default])
def test_without_a_ready_replica_a_query_is_queued_until_its_deadline(frontend, app):
    frontend.replica.is_ready = False
    query = frontend.submit(within_s=0.1, application=app)
    frontend.loop.advance(0.09)
    assert query not in frontend.settled
    frontend.loop.advance(0.02)
    prediction = check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, NoReadyReplica)
    assert prediction.explanation == (NO_MODEL if app else "")


def test_a_queued_query_is_sent_when_a_replica_becomes_ready(frontend):
    frontend.replica.is_ready = False
    query = frontend.submit(within_s=0.1)
    frontend.loop.advance(0.09)
    frontend.replica.revive()
    frontend.loop.turn()
    frontend.replica.answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_a_callback_at_a_deadline_may_cause_a_compaction_of_deadlines():
    frontend = Frontend(served(), max_queue_size=10_000)
    frontend.replica.is_ready = False
    again = []

    def settle(query, prediction):
        frontend.settled(query, prediction)
        again.extend(frontend.submit(within_s=10.0) for _ in range(1100))
        again.append(frontend.submit(within_s=0.5))

    query = frontend.query(within_s=0.1)
    query.settle = settle
    frontend.dispatcher.submit(query)
    frontend.loop.advance(1.0)
    assert [each for each in again if each in frontend.settled] == again[-1:]
    frontend.loop.advance(10.0)
    assert frontend.dispatcher.num_unsettled == 0


# Refusal on arrival.


@pytest.mark.parametrize("app", [None, without_default, with_default])
def test_a_version_scaled_to_zero_refuses_queries_at_once(app):
    frontend = Frontend(served(num_replicas=0))
    query = frontend.submit(application=app)
    prediction = check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, NoReadyReplica)
    if app is with_default:
        assert prediction.explanation == NO_MODEL == "No connected models found for query"
    else:
        assert prediction.error.message == (
            "model 'm:1' is scaled to 0 replicas; 'skysail scale m:1 1' starts one"
        )


def test_a_removed_version_refuses_queries_at_once(frontend):
    query = frontend.query()
    frontend.apply()
    frontend.dispatcher.submit(query)
    prediction = check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, NoReadyReplica)
    assert prediction.error.message == "model 'm:1' is not deployed"


@pytest.mark.parametrize(
    ("routes", "what"),
    [
        ((), "is routed to no model"),
        (("m:7",), "is routed to model 'm:7', which is not deployed"),
        (("m:",), "is routed to model 'm', which has no current version; promote one"),
        (("m:7", "n:"), "is routed to models of which one has no deployed version"),
    ],
)
def test_an_application_without_a_deployed_version_answers_at_once(frontend, routes, what):
    query = frontend.submit(None, application=application("lost", *routes, default=[0.0]))
    assert frontend.settled[query].outcome is Outcome.DEFAULT_NO_REPLICA
    query = frontend.submit(None, application=application("lost", *routes))
    error = frontend.settled[query].error
    assert isinstance(error, NoReadyReplica)
    assert error.message.startswith(f"application 'lost' {what}")


@pytest.mark.parametrize("app", [None, with_default])
def test_scaling_to_zero_fails_queued_queries_at_once(frontend, app):
    frontend.replica.is_ready = False
    queries = [frontend.submit(application=app) for _ in range(3)]
    frontend.apply(served(num_replicas=0))
    for query in queries:
        check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, NoReadyReplica)


@pytest.mark.parametrize("app", [None, with_default])
def test_undeploying_fails_queued_queries_at_once(frontend, app):
    frontend.replica.is_ready = False
    query = frontend.submit(application=app)
    frontend.apply()
    check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, ModelNotFound)
    assert frontend.dispatcher.version(ModelVersion("m", "1")) is None
    assert not frontend.dispatcher.is_ready(ModelVersion("m", "1"))


def test_undeploying_lets_replicas_answer_batches_in_flight(frontend):
    query = frontend.submit()
    frontend.loop.turn()
    frontend.apply()
    frontend.replica.answer()
    frontend.loop.turn()
    assert frontend.settled[query].outcome is Outcome.OK


def test_other_versions_serve_on_while_one_is_undeployed():
    frontend = Frontend(served("m:1"), served("n:1"))
    query = frontend.submit("n:1")
    frontend.apply(served("n:1"))
    frontend.loop.turn()
    frontend.replicas[1].answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_a_new_maximum_batch_size_applies_from_the_next_batch_on(frontend):
    for _ in range(5):
        frontend.submit()
    frontend.apply(served(max_batch_size=2))
    frontend.loop.turn()
    assert frontend.replica.sizes == [2, 2]


@pytest.mark.parametrize("app", [None, with_default])
def test_a_full_queue_refuses_queries_at_once(app):
    frontend = Frontend(served(), max_queue_size=2)
    frontend.replica.is_ready = False
    waiting = [frontend.submit() for _ in range(2)]
    refused = frontend.submit(application=app)
    prediction = check_failed(frontend, refused, Outcome.DEFAULT_OVERLOADED, Overloaded)
    if app is None:
        assert prediction.error.message.startswith("Exceeds maximum queue size")
        assert "'m:1'" in prediction.error.message
    assert not any(query in frontend.settled for query in waiting)
    frontend.dispatcher.cancel(waiting[0])
    assert frontend.submit() not in frontend.settled


# Lost replicas.


def test_queries_of_a_lost_replica_are_answered_by_another():
    frontend = Frontend(served(num_replicas=2))
    first, second = frontend.replicas[0], frontend.add_replica()
    second.is_ready = False
    query = frontend.submit(within_s=0.1)
    deadline = query.deadline
    frontend.loop.turn()
    frontend.loop.advance(0.05)
    first.lose()
    second.revive()
    frontend.loop.turn()
    assert second.sent[0].queries == [query]
    assert query.deadline == deadline
    frontend.clock.advance(0.01)
    second.answer(compute_s=0.002)
    prediction = frontend.settled[query]
    assert prediction.outcome is Outcome.OK
    assert prediction.queue_s == pytest.approx(0.05)
    assert prediction.total_s == pytest.approx(0.06)


def test_queries_of_a_lost_replica_keep_their_deadlines(frontend):
    query = frontend.submit(within_s=0.1)
    frontend.loop.turn()
    frontend.loop.advance(0.09)
    frontend.replica.lose()
    frontend.loop.advance(0.02)
    check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, NoReadyReplica)


def test_queries_of_a_lost_replica_precede_those_with_a_later_deadline(frontend):
    old = frontend.submit(within_s=0.1)
    frontend.loop.turn()
    new = frontend.submit(within_s=0.2)
    frontend.replica.lose()
    frontend.replica.revive()
    frontend.loop.turn()
    assert frontend.replica.sent[-1].queries == [old, new]


def test_a_query_fails_after_several_replicas_died_of_it(frontend):
    culprit = frontend.submit(within_s=10.0, application=with_default)
    for attempt in range(LAST_ATTEMPT + 1):
        assert culprit not in frontend.settled
        others = [frontend.submit(within_s=10.0) for _ in range(2)]
        frontend.loop.turn()
        assert culprit in frontend.replica.in_flight[0].queries
        assert (len(frontend.replica.in_flight[0].queries) == 1) == (attempt == LAST_ATTEMPT)
        frontend.replica.lose()
        frontend.replica.revive()
    prediction = check_failed(frontend, culprit, Outcome.DEFAULT_MODEL_ERROR, ModelFailed)
    assert prediction.explanation == "3 replicas died or hung while answering this query"
    assert not any(other in frontend.settled for other in others)


def test_a_query_that_kills_replicas_gets_an_error_of_the_model_without_a_default(frontend):
    query = frontend.submit(within_s=10.0)
    for _ in range(LAST_ATTEMPT + 1):
        frontend.loop.turn()
        frontend.replica.lose()
        frontend.replica.revive()
    check_failed(frontend, query, Outcome.DEFAULT_MODEL_ERROR, ModelFailed)


def test_only_the_oldest_batch_of_a_dead_replica_counts_an_attempt(frontend):
    queries = [frontend.submit(within_s=10.0)]
    frontend.loop.turn()
    queries.append(frontend.submit(within_s=10.0))
    frontend.loop.turn()
    frontend.replica.lose()
    assert [query.attempts for query in queries] == [1, 0]


def test_a_link_that_closes_in_order_counts_no_attempt_of_its_queries(frontend):
    query = frontend.submit(within_s=10.0)
    for _ in range(10):
        frontend.loop.turn()
        frontend.replica.lose(has_died=False)
        frontend.replica.revive()
    frontend.loop.turn()
    assert query.attempts == 0
    frontend.replica.answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_settled_queries_of_a_lost_replica_are_not_requeued(frontend):
    expired, cancelled = frontend.submit(within_s=0.1), frontend.submit(within_s=10.0)
    frontend.loop.turn()
    frontend.loop.advance(0.2)
    frontend.dispatcher.cancel(cancelled)
    frontend.replica.lose()
    assert len(frontend.version().queue) == 0
    check_failed(frontend, expired, Outcome.DEFAULT_DEADLINE, DeadlineExceeded)


def test_queries_of_a_replica_lost_after_undeploying_fail_at_once(frontend):
    query = frontend.submit()
    frontend.loop.turn()
    frontend.apply()
    frontend.replica.lose()
    check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, NoReadyReplica)


def test_queries_of_a_replica_lost_after_scaling_to_zero_fail_at_once(frontend):
    query = frontend.submit(within_s=10.0)
    frontend.loop.turn()
    frontend.apply(served(num_replicas=0))
    frontend.replica.lose()
    check_failed(frontend, query, Outcome.DEFAULT_NO_REPLICA, NoReadyReplica)


# Undeliverable answers.


def break_callback(frontend: Frontend, query: Query) -> None:
    """Let the callback of a query fail to write its answer."""

    def settle(query: Query, prediction: Prediction) -> None:
        if prediction.error is None:
            raise ValueError("cannot be written")
        frontend.settled(query, prediction)

    query.settle = settle


def test_an_answer_that_cannot_be_written_fails_its_query_only(frontend):
    queries = [frontend.submit(application=with_default) for _ in range(3)]
    break_callback(frontend, queries[1])
    frontend.loop.turn()
    frontend.replica.answer()
    assert frontend.settled[queries[1]].error.message == "internal error"
    assert all(frontend.settled[query].outcome is Outcome.OK for query in queries[::2])
    assert frontend.dispatcher.num_unsettled == 0


def test_a_default_output_that_cannot_be_written_does_not_stop_the_deadlines(frontend):
    frontend.replica.is_ready = False
    queries = [frontend.submit(application=with_default) for _ in range(3)]
    break_callback(frontend, queries[1])
    frontend.loop.advance(0.2)
    assert frontend.settled[queries[1]].error.message == "internal error"
    queries.append(frontend.submit(application=with_default))
    frontend.loop.advance(0.2)
    assert all(query in frontend.settled for query in queries)


# Cancellation.


def test_a_cancelled_query_leaves_the_queue_at_once(frontend):
    query = frontend.submit(rows=3)
    frontend.dispatcher.cancel(query)
    assert len(frontend.version().queue) == frontend.version().queue.num_rows == 0
    assert frontend.dispatcher.num_unsettled == 0
    frontend.loop.turn()
    assert frontend.replica.sent == []
    frontend.loop.advance(100.0)
    assert query not in frontend.settled


def test_the_answer_to_a_cancelled_query_is_ignored(frontend):
    cancelled, other = frontend.submit(), frontend.submit()
    frontend.loop.turn()
    frontend.dispatcher.cancel(cancelled)
    frontend.replica.answer()
    assert cancelled not in frontend.settled
    assert frontend.settled[other].outcome is Outcome.OK


def test_cancelling_a_settled_query_does_nothing(frontend):
    query = frontend.submit()
    frontend.loop.turn()
    frontend.replica.answer()
    frontend.dispatcher.cancel(query)
    frontend.dispatcher.cancel(query)
    assert frontend.dispatcher.num_unsettled == 0


def test_the_model_error_of_a_cancelled_query_is_ignored(frontend):
    query = frontend.submit()
    frontend.loop.turn()
    frontend.dispatcher.cancel(query)
    frontend.replica.answer(function=failing(InvalidInput("no")))
    assert query not in frontend.settled
