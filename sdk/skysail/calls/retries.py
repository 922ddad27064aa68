"""Calls that are repeated where their connection is lost on the way."""

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
"""How long after a loss management is asked again: another one takes over within this time."""
MAX_OPERATION_S = 3600.0
"""Time after which an operation is not asked for again, although management answered in between."""
RESTART_PATIENCE_S = 5.0
"""How long an operation that has not begun waits for a management that its supervisor restarts."""
_FIRST_RETRY_S = 0.1
_MAX_RETRY_S = 1.0


class LostConnection(Exception):
    """A connection that broke while a call was under way; the call may have had its effect."""

    def __init__(self, error: SkysailError) -> None:
        """The error that the caller gets if no other attempt succeeds."""
        super().__init__(error.message)
        self.error = error


async def await_call(
    work: Awaitable[T], translate_error: Callable[[grpc.aio.AioRpcError], SkysailError]
) -> T:
    """Await a call of gRPC.

    Args:
        work: The call, or the next message of its stream.
        translate_error: Returns the error to raise for one of gRPC's.

    Raises:
        LostConnection: the connection broke, or this client closed it for a fork.
        SkysailError: what `told` makes of any other error.
    """
    inner = asyncio.ensure_future(work)
    try:
        # Closing a channel cancels its calls, which would look like a cancelled caller.
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
        # The traceback of gRPC adds nothing, and would be shown first.
        raise found from None


class RetryPolicy:
    """Decides, for one operation, whether it goes on after a failure and when.

    What never began fails at once, because a cluster that does not run is not waited for. Where a
    supervisor restarts management, it waits for `RESTART_PATIENCE_S`. An operation that
    has begun outlasts a restart of management, a change of its leader, or a new port-forward.
    """

    def __init__(self, clock: Clock = MONOTONIC, chance: Callable[[], float] = random) -> None:
        """Begins with an operation that has not reached management; see `BackOff` for `chance`."""
        self._clock = clock
        self._end = clock() + MAX_OPERATION_S
        self._has_begun = False
        self._lost_at: float | None = None
        self._back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S, chance)

    def note_answer(self) -> None:
        """Note that management answered."""
        self._has_begun = True
        self._lost_at = None
        self._back_off.reset()

    def next_wait_s(self, error: LostConnection | Unavailable) -> float:
        """Return how long to wait before the next attempt, in seconds.

        Raises:
            SkysailError: that of `error`, if the operation has not begun, if management has been
                away for `PATIENCE_S`, or if the operation takes longer than `MAX_OPERATION_S`.
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
