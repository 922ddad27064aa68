"""An event loop for programs that have none."""

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
"""How often a caller who waits makes sure that the thread lives."""


class Pause:
    """A time in which a loop is held still, because its process forks."""

    def __init__(self) -> None:
        """Starts before the loop stands still."""
        self.held = threading.Event()
        """Set once the loop stands still."""
        self.over = threading.Event()
        """Lets the loop go on."""

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
            # Blocking is the purpose: nothing of this loop may call gRPC during the fork.
            self.over.wait(_MAX_PAUSE_S)
            reconnect()


class LoopThread:
    """An event loop in a separate thread, which runs until it is stopped."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="skysail client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # Those that grpc.aio has for a call end a little later than the call.
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], limit_s: float | None = None) -> T:
        """Return the result of a coroutine; it is cancelled if the caller is interrupted.

        Args:
            work: What the loop runs.
            limit_s: Longest wait in seconds, for work that should have ended by itself before.

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
                    raise Unavailable("the client's thread has ended; make a new client")
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
        """Start to hold the loop still for a fork; returns at once.

        Args:
            disconnect: Runs before the loop is held.
            reconnect: Runs when the loop goes on.
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
        # A program that ends would end it in the middle.
        self._thread.join(_STOP_TIMEOUT_S)
