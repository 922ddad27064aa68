"""The errors of Skysail. Each class carries the gRPC status that callers see.

    SkysailError                       INTERNAL
    ├─ InvalidInput                    INVALID_ARGUMENT
    ├─ NotFound                        NOT_FOUND
    │   ├─ ApplicationNotFound
    │   ├─ ModelNotFound
    │   ├─ ReplicaNotFound
    │   └─ ArtifactNotFound
    ├─ AlreadyExists                   ALREADY_EXISTS
    ├─ FailedPrecondition              FAILED_PRECONDITION
    │   ├─ ModelInUse
    │   ├─ InputTypeMismatch
    │   ├─ DeployFailed
    │   ├─ StoreLost
    │   ├─ StoreRefused
    │   └─ StoreTaken
    ├─ Unauthenticated                 UNAUTHENTICATED
    ├─ Conflict                        ABORTED
    ├─ DeadlineExceeded                DEADLINE_EXCEEDED
    ├─ Overloaded                      RESOURCE_EXHAUSTED
    ├─ Unavailable                     UNAVAILABLE
    │   ├─ NoReadyReplica
    │   ├─ StoreUnavailable
    │   └─ ContainerManagerUnavailable
    ├─ ModelFailed                     INTERNAL
    └─ Unsupported                     UNIMPLEMENTED

A message is lower case and says what failed and on which object. Any other exception is a fault of
Skysail: the log has its traceback, and the caller reads "internal error".
"""

import enum
from collections.abc import Iterator
from typing import ClassVar, NamedTuple, TypeVar


class Status(enum.IntEnum):
    """Status codes of gRPC. Source: the gRPC specification, "Status codes and their use"."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_MAX_SHOWN = 120


def shown(text: str) -> str:
    """Return a text of the caller for use in a message; cut a long one."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


class Backlog(NamedTuple):
    """The reason why a query was shed, and the state of its queue."""

    reason: str
    """A reason such as `queue_full`."""
    num_rows: int
    """Rows in the queue."""
    wait_s: float | None
    """Time in which the model is expected to answer a query that arrives now; None if a retry is
    useless, because the model takes longer than the query allows even with an empty queue."""


class SkysailError(Exception):
    """A failure of Skysail; the base of all its errors."""

    status: ClassVar[Status] = Status.INTERNAL
    backlog: Backlog | None = None
    """The backlog if a query was shed."""

    @property
    def message(self) -> str:
        """The cause, for people."""
        return str(self)


_ErrorT = TypeVar("_ErrorT", bound=BaseException)


def without_frames(error: _ErrorT) -> _ErrorT:
    """Drop the traceback of an error that becomes an answer, and return the error.

    The frames of a traceback refer to messages, answers and often the error itself. Such a cycle
    stays in memory until the garbage collector runs, which is rare in a frontend.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class InvalidInput(SkysailError):
    """A name, type, shape or size is wrong; the same call can never succeed."""

    status = Status.INVALID_ARGUMENT


class NotFound(SkysailError):
    """An object that the call names does not exist."""

    status = Status.NOT_FOUND


class ApplicationNotFound(NotFound):
    """No application has that name."""


class ModelNotFound(NotFound):
    """No model, or no version of it, has that name."""


class ReplicaNotFound(NotFound):
    """No replica has that id."""


class ArtifactNotFound(NotFound):
    """No artifact with that SHA-256 was uploaded."""


class AlreadyExists(SkysailError):
    """The name is already registered with other content."""

    status = Status.ALREADY_EXISTS


class FailedPrecondition(SkysailError):
    """The state of the cluster does not allow the call; repair it first."""

    status = Status.FAILED_PRECONDITION


class ModelInUse(FailedPrecondition):
    """A version cannot be removed because it is current, deployed or the target of a route."""


class InputTypeMismatch(FailedPrecondition):
    """An application cannot be routed to a model of another input type."""


class DeployFailed(FailedPrecondition):
    """A deploy failed while its environment was built, or its model was loaded or warmed up."""

    log_tail: str = ""
    """End of the failed replica's log; may be empty."""


class StoreLost(FailedPrecondition):
    """The Redis server lost data: it is empty, holds an older state, or is another server.

    Management changes nothing until an operator restores the data or declares them lost.
    """


class StoreRefused(FailedPrecondition):
    """The Redis server refuses management because of a wrong password, user, node or command."""


class StoreTaken(FailedPrecondition):
    """Another management owns the cluster's records in the Redis server."""


class Unauthenticated(SkysailError):
    """The caller did not prove its identity."""

    status = Status.UNAUTHENTICATED


class Conflict(SkysailError):
    """Another writer changed a record after it was read; read again and retry."""

    status = Status.ABORTED


class DeadlineExceeded(SkysailError):
    """The deadline of a query has passed or cannot be met."""

    status = Status.DEADLINE_EXCEEDED


class Overloaded(SkysailError):
    """A queue is full."""

    status = Status.RESOURCE_EXHAUSTED


class Unavailable(SkysailError):
    """The call cannot be served now; retry it later."""

    status = Status.UNAVAILABLE


class NoReadyReplica(Unavailable):
    """No replica of the version is ready: each starts, drains or has failed, or none is desired."""


class StoreUnavailable(Unavailable):
    """The Redis server does not answer."""


class ContainerManagerUnavailable(Unavailable):
    """The engine that runs containers does not answer."""


class ModelFailed(SkysailError):
    """The user's function raised an error or returned an unusable result."""

    status = Status.INTERNAL


class Unsupported(SkysailError):
    """This server or container manager does not support the call."""

    status = Status.UNIMPLEMENTED


def all_errors() -> Iterator[type[SkysailError]]:
    """Yield `SkysailError` and every class below it."""
    pending: list[type[SkysailError]] = [SkysailError]
    while pending:
        error = pending.pop()
        yield error
        pending.extend(sorted(error.__subclasses__(), key=lambda cls: cls.__name__, reverse=True))


_REPRESENTATIVES: tuple[type[SkysailError], ...] = (
    InvalidInput,
    NotFound,
    AlreadyExists,
    FailedPrecondition,
    Unauthenticated,
    Conflict,
    DeadlineExceeded,
    Overloaded,
    Unavailable,
    Unsupported,
)


def error_of(reason: str, status: int, message: str) -> SkysailError:
    """Return the error that a peer sent.

    Args:
        reason: Name of the class; may be unknown here, or empty.
        status: Code of the gRPC status, which selects the class if the name is unknown.
        message: The message of the error.
    """
    for error in all_errors():
        if error.__name__ == reason:
            return error(message)
    for error in _REPRESENTATIVES:
        if error.status == status:
            return error(message)
    return SkysailError(message)


def reason_of(error: OSError) -> str:
    """Return the operating system's text for an error, in lower case for the middle of a sentence."""
    return (error.strerror or str(error)).lower()
