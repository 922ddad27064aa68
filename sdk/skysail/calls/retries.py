"""Retries of calls whose connection broke."""

import asyncio
from collections.abc import Awaitable, Callable
from random import random
from typing import TypeVar

import grpc.aio

from skysail.connection_errors import ManagementRestarting, is_lost
from skysail_common.clock import MONOTONIC, Clock
from skysail_common.errors import SkysailError, Unavailable
from skysail_common.process.backoff import BackOff

T = TypeVar("T")

PATIENCE_S = 30.0
"""Time after a loss in which calls are retried: a standby takes over within this time."""
MAX_OPERATION_S = 3600.0
"""Time after which an operation is not retried, even if management answered in between."""
RESTART_PATIENCE_S = 5.0
"""Longest wait of a new operation for a management that its supervisor restarts."""
_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 1.0


class LostConnection(Exception):
    """A connection that broke during a call; the call may have had its effect."""

    def __init__(self, error: SkysailError) -> None:
        """Holds the error that the caller gets if no retry succeeds."""
        super().__init__(error.message)
        self.error = error


async def await_call(
    work: Awaitable[T], translate_error: Callable[[grpc.aio.AioRpcError], SkysailError]
) -> T:
    """Await a gRPC call.

    Args:
        work: The call, or the next message of its stream.
        translate_error: Returns the error to raise for an error of gRPC.

    Raises:
        LostConnection: the connection broke, or the client closed it for a fork.
        SkysailError: what `told` makes of any other error.
    """
    inner = asyncio.ensure_future(work)
    try:
        # A channel that is closed cancels its calls, which looks like a cancelled caller.
        await asyncio.wait([inner])
    finally:
        inner.cancel()
    if inner.cancelled():
        raise LostConnection(Unavailable("the connection was closed during the call"))
    try:
        return inner.result()
    except grpc.aio.AioRpcError as error:
        found = translate_error(error)
        if is_lost(error):
            raise LostConnection(found) from None
        # The traceback of gRPC is of no use to a caller, and would be shown first.
        raise found from None


class RetryPolicy:
    """The decision, for one operation, whether and when to retry after a failure.

    A new operation fails at once, because waiting for a cluster that does not run is useless. If a
    supervisor restarts management, it waits for `RESTART_PATIENCE_S`. An operation that has begun
    survives a restart of management, a change of its leader, or a new port-forward.
    """

    def __init__(self, clock: Clock = MONOTONIC, chance: Callable[[], float] = random) -> None:
        """Starts with an operation that has not reached management; see `BackOff` for `chance`."""
        self._clock = clock
        self._end = clock() + MAX_OPERATION_S
        self._has_begun = False
        self._lost_at: float | None = None
        self._back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S, chance)

    def note_answer(self) -> None:
        """Record that management answered."""
        self._has_begun = True
        self._lost_at = None
        self._back_off.reset()

    def next_wait_s(self, error: LostConnection | Unavailable) -> float:
        """Return how long to wait before the next attempt, in seconds.

        Raises:
            SkysailError: the operation has not begun, management has been away for `PATIENCE_S`,
                or the operation takes longer than `MAX_OPERATION_S`; it is the error of the call.
        """
        self._has_begun = self._has_begun or isinstance(error, LostConnection)
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
        limit_s = PATIENCE_S if self._has_begun else 0.0
        if isinstance(error, ManagementRestarting):
            limit_s = max(limit_s, RESTART_PATIENCE_S)
        if limit_s == 0 or now - self._lost_at > limit_s or now > self._end:
            if isinstance(error, ManagementRestarting):
                raise Unavailable(error.message) from None
            raise (error.error if isinstance(error, LostConnection) else error) from None
        return self._back_off.next_s()
