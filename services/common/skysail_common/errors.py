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

A message is lower case and says what and which. Whatever is not a `SkysailError` is a mistake of
ours: it is logged with its traceback, and the caller reads "internal error".
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
    """Return a text of the caller as a message repeats it: a long one is cut."""
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


class Backlog(NamedTuple):
    """The reason and the queue of a query that was shed."""

    reason: str
    """Such as `queue_full`."""
    num_rows: int
    """Rows that wait."""
    wait_s: float | None
    """Time in which a query that comes now is expected to be answered; None if a retry is useless,
    because the model takes longer than the query allows even if nothing waits."""


class SkysailError(Exception):
    """Something that Skysail was asked to do was not done."""

    status: ClassVar[Status] = Status.INTERNAL
    backlog: Backlog | None = None
    """Set where a query was shed."""

    @property
    def message(self) -> str:
        """What went wrong, for people."""
        return str(self)


_ErrorT = TypeVar("_ErrorT", bound=BaseException)


def without_frames(error: _ErrorT) -> _ErrorT:
    """Drop the traceback of an error that becomes an answer, and return the error.

    Its frames hold messages and answers and mostly the error itself: such a cycle stays until the
    garbage collector runs, which is rare in a frontend.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


class InvalidInput(SkysailError):
    """A wrong name, type, shape or size: the same call can never succeed."""

    status = Status.INVALID_ARGUMENT


class NotFound(SkysailError):
    """Something that was named does not exist."""

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
    """Something of that name, but with other content, was registered before."""

    status = Status.ALREADY_EXISTS


class FailedPrecondition(SkysailError):
    """The state of the cluster does not allow it; something must be mended first."""

    status = Status.FAILED_PRECONDITION


class ModelInUse(FailedPrecondition):
    """A version that is current, deployed or routed to cannot be taken away."""


class InputTypeMismatch(FailedPrecondition):
    """An application cannot be routed to a model that takes something else."""


class DeployFailed(FailedPrecondition):
    """A version could not be deployed: its environment, its loading or its warm-up failed."""

    log_tail: str = ""
    """End of the failed replica's log; may be empty."""


class StoreLost(FailedPrecondition):
    """The Redis server lost data: it is empty, older than it was, or another one.

    Nothing is changed until its data are restored, or are given up on purpose.
    """


class StoreRefused(FailedPrecondition):
    """The Redis server refuses management: a wrong password, user, node or command."""


class StoreTaken(FailedPrecondition):
    """Another management owns the cluster's records in the Redis server."""


class Unauthenticated(SkysailError):
    """The caller did not prove who it is."""

    status = Status.UNAUTHENTICATED


class Conflict(SkysailError):
    """A record was changed by another between reading and writing; read again and retry."""

    status = Status.ABORTED


class DeadlineExceeded(SkysailError):
    """The deadline of a query passed, or cannot be met."""

    status = Status.DEADLINE_EXCEEDED


class Overloaded(SkysailError):
    """A queue is full."""

    status = Status.RESOURCE_EXHAUSTED


class Unavailable(SkysailError):
    """Not possible now; retry the same call after a while."""

    status = Status.UNAVAILABLE


class NoReadyReplica(Unavailable):
    """Every replica of the version is starting, draining or failed, or none is wanted."""


class StoreUnavailable(Unavailable):
    """The Redis server does not answer."""


class ContainerManagerUnavailable(Unavailable):
    """The engine that runs containers does not answer."""


class ModelFailed(SkysailError):
    """The function of the user raised an error or returned something unusable."""

    status = Status.INTERNAL


class Unsupported(SkysailError):
    """This server or container manager cannot do that."""

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
    """Return the error that a peer named.

    Args:
        reason: Name of the class; may be unknown here, or empty.
        status: Code of the gRPC status; decides where the name is unknown.
        message: What went wrong.
    """
    for error in all_errors():
        if error.__name__ == reason:
            return error(message)
    for error in _REPRESENTATIVES:
        if error.status == status:
            return error(message)
    return SkysailError(message)


def reason_of(error: OSError) -> str:
    """Return what the operating system says of a failure, in lower case for the middle of a text."""
    return (error.strerror or str(error)).lower()
