"""The bridge from blocking callers to an `AsyncClient` on a thread."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from skysail.async_client import AsyncClient
from skysail.forks import FORKS
from skysail.loop_thread import LoopThread, Pause
from skysail_common.errors import SkysailError

T = TypeVar("T")

_CLOSE_TIMEOUT_S = 10.0

_OF_PARENTS: list[object] = []
"""Objects that a child process inherited; their destruction would affect the parent."""


class Bridge:
    """An `AsyncClient` and its thread, which starts at the first call and survives forks."""

    def __init__(self, client: AsyncClient) -> None:
        """Starts idle.

        Args:
            client: A client without other users.
        """
        self.client = client
        self._loop: LoopThread | None = None
        FORKS.add(self)

    def run(self, work: Coroutine[Any, Any, T], limit_s: float | None = None) -> T:
        """Return the result of a coroutine of the client.

        Args:
            work: The coroutine.
            limit_s: Longest wait in seconds, in case the thread is blocked.

        Raises:
            SkysailError: the coroutine raised it.
            FailedPrecondition: the parent of this process used gRPC when it forked.
        """
        try:
            loop = self._started()
        except BaseException:
            work.close()
            raise
        try:
            return loop.run(work, limit_s)
        except SkysailError as error:
            # The frames of the thread of the client are of no use to the caller.
            raise error.with_traceback(None) from error.__cause__

    def _started(self) -> LoopThread:
        FORKS.check()
        if self._loop is not None:
            return self._loop
        with FORKS.gate:
            if self._loop is None:
                self._loop = LoopThread()
            return self._loop

    def close(self) -> None:
        """Close the connections and end the thread; another call starts both again."""
        with FORKS.gate:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.run(self.client.close(), _CLOSE_TIMEOUT_S)
                loop.stop()

    def pause(self) -> Pause | None:
        """Disconnect for a fork and stop the thread; return None without a thread."""
        if self._loop is None:
            return None
        return self._loop.pause(self.client._suspend, self.client._resume)

    def start_over(self) -> None:
        """Drop the objects of the parent process, in a forked child."""
        _OF_PARENTS.append((self._loop, self.client))
        self._loop = None
        self.client = self.client._twin()
