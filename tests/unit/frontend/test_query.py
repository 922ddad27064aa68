import gc
import weakref

import pytest

from skysail_common.errors import DeadlineExceeded, ModelFailed, Overloaded
from skysail_frontend.core.query import Outcome, Prediction, Query
from skysail_protos.v1 import query_pb2
from unit.frontend.parts import Settlements, application, served


@pytest.fixture
def settled() -> Settlements:
    return Settlements()


def query_of(app, settled) -> Query:
    return Query("7", app, served(), (b"12345678",), 1, (), 100.0, 101.0, settled)


def test_outcomes_have_the_numbers_of_the_protocol():
    for outcome in Outcome:
        assert query_pb2.Outcome.Value(f"OUTCOME_{outcome.name}") == outcome
    assert len(query_pb2.Outcome.keys()) == len(Outcome) + 1


def test_only_the_first_answer_counts(settled):
    query = query_of(None, settled)
    first = Prediction(Outcome.OK, [b""], [(1,)])
    query.answer(first, 100.5)
    query.answer(Prediction(Outcome.DEFAULT_DEADLINE), 100.7)
    query.fail(Outcome.DEFAULT_DEADLINE, "late", DeadlineExceeded("late"), 100.8)
    assert settled[query] is first
    assert first.total_s == 0.5
    assert query.inputs == ()


def test_a_cancelled_query_is_not_settled(settled):
    query = query_of(None, settled)
    query.cancel()
    query.answer(Prediction(Outcome.OK), 100.5)
    assert query not in settled
    assert query.inputs == ()


def test_a_failed_query_gets_the_default_output_of_its_application(settled):
    query = query_of(application(default=None), settled)
    query.fail(Outcome.DEFAULT_OVERLOADED, "full", Overloaded("queue full"), 100.5)
    prediction = settled[query]
    assert (prediction.outcome, prediction.explanation) == (Outcome.DEFAULT_OVERLOADED, "full")
    assert prediction.error is None
    assert prediction.is_default


@pytest.mark.parametrize("app", [None, application()])
def test_a_failed_query_without_a_default_output_gets_the_error(settled, app):
    error = Overloaded("queue full")
    query = query_of(app, settled)
    query.fail(Outcome.DEFAULT_OVERLOADED, "full", error, 100.5)
    assert settled[query].error is error


class Response:
    """A large object that must be freed with its callback."""


@pytest.mark.parametrize("kind", [ModelFailed, RuntimeError])
def test_an_undelivered_answer_leaves_no_reference_cycle(kind, caplog):
    # A log record would keep the exception.
    caplog.set_level("CRITICAL", "skysail_frontend.core.query")
    made: list[weakref.ref[Response]] = []
    errors = []

    def settle(query, prediction):
        if prediction.error is not None:
            errors.append(prediction.error)
            return
        response = Response()
        made.append(weakref.ref(response))
        try:
            raise ValueError("too large")
        except ValueError as error:
            raise kind(f"{response} cannot be sent") from error

    gc.disable()
    try:
        query = query_of(None, settle)
        query.answer(Prediction(Outcome.OK, [b""], [(1,)]), 100.5)
        assert len(errors) == 1
        assert made[0]() is None
    finally:
        gc.enable()


def test_an_error_that_settles_a_query_holds_no_frames(settled):
    def fail() -> None:
        raise Overloaded("queue full")

    query = query_of(None, settled)
    with pytest.raises(Overloaded) as caught:
        fail()
    query.fail(Outcome.DEFAULT_OVERLOADED, "full", caught.value, 100.5)
    assert settled[query].error.__traceback__ is None


def test_a_failing_callback_does_not_affect_other_queries(caplog):
    def settle(query, prediction):
        raise RuntimeError("always")

    query = query_of(None, settle)
    assert query.answer(Prediction(Outcome.OK), 100.5).error is not None
    assert [record.message for record in caplog.records] == [
        "query settlement failed",
        "query error not delivered",
    ]
