"""Translation of the Redis client's errors: each names its cause and its fix."""

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - the client's own
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from skysail_common.errors import SkysailError, StoreRefused, StoreUnavailable

_SETTING = "SKYSAIL_REDIS_URL"

# A retry is useless for these errors: an operator must change the setting or the server.
_WRONG_PASSWORD = (AuthenticationError, AuthorizationError, AuthenticationWrongNumberOfArgsError)
# A retry helps for these errors once the server has recovered.
_PASSING = (BusyLoadingError, ClusterDownError, MasterDownError, TryAgainError)


@contextmanager
def translated() -> Iterator[None]:
    """Translate errors of the Redis client inside the `with` block."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise _translation(error) from error


def _translation(error: Exception) -> SkysailError:
    # The client wraps an error during connection setup in a ConnectionError.
    while type(error) is ConnectionError and isinstance(error.__cause__, RedisError):
        error = error.__cause__
    text = str(error) or type(error).__name__
    # A long command of a client that gave no password is refused as a protocol error.
    if isinstance(error, _WRONG_PASSWORD) or "unauthenticated" in text:
        return StoreRefused(
            f"the store refuses the password: {text}; set the right user and password in {_SETTING}"
        )
    if isinstance(error, NoPermissionError):
        return StoreRefused(
            f"the store denies a command or key to its user: {text}; allow the user of {_SETTING} "
            "all commands on keys that start with {skysail:"
        )
    if isinstance(error, AskError):
        return StoreRefused(
            f"the store is a node of a Redis Cluster that does not hold the data: {text}; set "
            f"{_SETTING} to the node that does"
        )
    if isinstance(error, ReadOnlyError):
        return StoreUnavailable(
            f"the store is a read-only replica: {text}; set {_SETTING} to its primary"
        )
    if isinstance(error, OutOfMemoryError):
        return StoreUnavailable(f"the store is full: {text}; raise its maxmemory")
    if isinstance(error, _PASSING):
        return StoreUnavailable(f"the store is not ready: {text}")
    if isinstance(error, ResponseError):
        if text.startswith(("MISCONF", "NOREPLICAS", "MASTERDOWN", "BUSY")):
            return StoreUnavailable(f"the store accepts no changes now: {text}")
        return StoreRefused(f"the store refuses a command: {text}; check the server of {_SETTING}")
    return StoreUnavailable(
        f"the store does not answer: {text.rstrip('.')}; check that its server runs and that "
        f"{_SETTING} is its address"
    )
