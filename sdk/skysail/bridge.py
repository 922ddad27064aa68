"""Runs an `AsyncClient` for blocking callers, on an event loop in a separate thread."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from skysail.async_client import AsyncClient
from skysail.forks import FORKS
from skysail.loop_thread import LoopThread, Pause
from skysail_common.errors import SkysailError

T = TypeVar("T")

_CLOSE_TIMEOUT_S = 10.0

_OF_PARENTS: list[object] = []
"""What a child process inherited: destroying it would touch what its parent still uses."""


class Bridge:
    """An `AsyncClient` and its thread, which begins at the first call and survives forks."""

    def __init__(self, client: AsyncClient) -> None:
        """Starts idle.

        Args:
            client: A client that nobody else uses.
        """
        self.client = client
        self._loop: LoopThread | None = None
        FORKS.add(self)

    def run(self, work: Coroutine[Any, Any, T], limit_s: float | None = None) -> T:
        """Return the result of a coroutine of the client.

        Args:
            work: The coroutine.
            limit_s: Longest wait, in case that something blocks the thread.

        Raises:
            SkysailError: what the coroutine raised.
            FailedPrecondition: this process is the child of one that used gRPC as it forked.
        """
        try:
            loop = self._started()
        except BaseException:
            work.close()
            raise
        try:
            return loop.run(work, limit_s)
        except SkysailError as error:
            # Where in the client's own thread it was raised tells the caller nothing.
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
        """Close the connections and end the thread; another call would start both again."""
        with FORKS.gate:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.run(self.client.close(), _CLOSE_TIMEOUT_S)
                loop.stop()

    def pause(self) -> Pause | None:
        """Disconnect for a fork and hold the thread; None without a thread."""
        if self._loop is None:
            return None
        return self._loop.pause(self.client._suspend, self.client._resume)

    def start_over(self) -> None:
        """Drop, in a forked child, what belongs to the parent process."""
        _OF_PARENTS.append((self._loop, self.client))
        self._loop = None
        self.client = self.client._twin()
