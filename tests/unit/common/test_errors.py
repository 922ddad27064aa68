import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common import errors
from skysail_common.errors import SkysailError, Status, all_errors, error_of
from skysail_testing.examples import examples

OURS = [error for error in all_errors() if error.__module__ == errors.__name__]


@pytest.mark.parametrize("error", OURS, ids=lambda error: error.__name__)
def test_the_reason_selects_the_error_for_any_status(error):
    made = error_of(error.__name__, Status.UNKNOWN, "model 'sum:3' is not registered")
    assert type(made) is error
    assert made.message == "model 'sum:3' is not registered"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.INVALID_ARGUMENT, errors.InvalidInput),
        (Status.NOT_FOUND, errors.NotFound),
        (Status.ALREADY_EXISTS, errors.AlreadyExists),
        (Status.FAILED_PRECONDITION, errors.FailedPrecondition),
        (Status.UNAUTHENTICATED, errors.Unauthenticated),
        (Status.ABORTED, errors.Conflict),
        (Status.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (Status.RESOURCE_EXHAUSTED, errors.Overloaded),
        (Status.UNAVAILABLE, errors.Unavailable),
        (Status.UNIMPLEMENTED, errors.Unsupported),
        (Status.INTERNAL, SkysailError),
        (Status.UNKNOWN, SkysailError),
        (Status.CANCELLED, SkysailError),
    ],
)
@pytest.mark.parametrize("reason", ["", "FromTheFuture"])
def test_an_unknown_reason_falls_back_to_the_status(reason, status, error):
    made = error_of(reason, status, "something")
    assert type(made) is error
    assert made.message == "something"


@settings(max_examples=examples(30))
@given(st.text(), st.integers(), st.text())
def test_any_reason_of_a_peer_becomes_a_skysail_error(reason, status, message):
    made = error_of(reason, status, message)
    assert isinstance(made, SkysailError)
    assert made.message == message
    assert made.status in (status, Status.INTERNAL) or type(made).__name__ == reason


def test_every_status_maps_to_a_class_with_that_status():
    for error in OURS:
        assert error_of("", error.status, "").status is error.status


def test_a_class_below_another_has_its_status():
    assert errors.NoReadyReplica.status is errors.Unavailable.status is Status.UNAVAILABLE
    assert errors.ModelNotFound.status is Status.NOT_FOUND
    assert errors.DeployFailed.status is Status.FAILED_PRECONDITION


def test_all_errors_yields_each_class_once_and_a_class_before_those_below_it():
    found = list(all_errors())
    assert found[0] is SkysailError
    assert len(found) == len(set(found))
    for error in found[1:]:
        assert found.index(error.__base__) < found.index(error)


def test_a_failed_deployment_has_an_empty_log_until_it_is_given_one():
    error = errors.DeployFailed("it failed")
    assert error.log_tail == ""
    error.log_tail = "Traceback"
    assert errors.DeployFailed("another").log_tail == ""
