"""An event loop in a thread, for programs without asyncio."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from skysail_common.errors import DeadlineExceeded, Unavailable

T = TypeVar("T")

_STOP_TIMEOUT_S = 5.0
_MAX_PAUSE_S = 60.0
_CHECK_S = 1.0
"""Interval at which a waiting caller checks that the thread is alive."""


class Pause:
    """The time in which an event loop stands still, because its process forks."""

    def __init__(self) -> None:
        """Starts before the loop stands still."""
        self.held = threading.Event()
        """Set once the loop stands still."""
        self.over = threading.Event()
        """Set to resume the loop."""

    async def hold(
        self,
        disconnect: Callable[[], Awaitable[None]],
        reconnect: Callable[[], None],
    ) -> None:
        """Disconnect, then block the thread until the pause is over."""
        try:
            await disconnect()
        finally:
            self.held.set()
            # The wait blocks on purpose, because no task of this loop may call gRPC during the fork.
            self.over.wait(_MAX_PAUSE_S)
            reconnect()


class LoopThread:
    """A thread that runs an event loop until `stop`."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="skysail client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # The tasks of grpc.aio for a call end a little later than the call.
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], limit_s: float | None = None) -> T:
        """Return the result of a coroutine; an interrupt of the caller cancels it.

        Args:
            work: The coroutine.
            limit_s: Longest wait in seconds, above the limit of the work itself.

        Raises:
            DeadlineExceeded: the limit passed, because something blocks the loop.
            Unavailable: the thread has ended.
        """
        if self._loop.is_closed():
            work.close()
            raise Unavailable("the client was closed during the call")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        waited_s = 0.0
        try:
            while True:
                step_s = _CHECK_S if limit_s is None else min(_CHECK_S, limit_s - waited_s)
                try:
                    return future.result(step_s)
                except concurrent.futures.TimeoutError:
                    if future.done():
                        return future.result()
                waited_s += step_s
                if not self._thread.is_alive():
                    raise Unavailable("the thread of the client has ended; create a new client")
                if limit_s is not None and waited_s >= limit_s:
                    raise DeadlineExceeded(
                        f"the client did not answer within {limit_s:g} s; something blocks its "
                        "thread, such as an on_event function that does not return"
                    )
        except BaseException:
            # KeyboardInterrupt in the caller's thread cancels the call too.
            future.cancel()
            raise

    def pause(
        self,
        disconnect: Callable[[], Awaitable[None]],
        reconnect: Callable[[], None],
    ) -> Pause:
        """Begin to stop the loop for a fork, and return at once.

        Args:
            disconnect: Called before the loop stands still.
            reconnect: Called when the loop resumes.
        """
        pause = Pause()
        if threading.current_thread() is self._thread or self._loop.is_closed():
            # The thread that forks cannot wait for itself.
            pause.held.set()
        else:
            work = pause.hold(disconnect, reconnect)
            asyncio.run_coroutine_threadsafe(work, self._loop)
        return pause

    def stop(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        # A program that exits would kill the thread in the middle of its work.
        self._thread.join(_STOP_TIMEOUT_S)
