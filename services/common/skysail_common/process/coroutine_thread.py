"""An event loop for coroutines of user code, on a thread of its own.

The loop runs until `close`, also between the calls, so that the connections, sessions and background
tasks of user code live on.
"""

import asyncio
import logging
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 5.0


class CoroutineThread:
    """A thread that runs an event loop until `close`."""

    def __init__(self, name: str = "coroutines") -> None:
        """Start the thread.

        Args:
            name: Name of the thread.
        """
        self.loop = asyncio.new_event_loop()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine; an interrupt of the caller cancels it.

        Called by:
            Any thread but that of the loop.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel all tasks of the loop and end the thread, if they end within 5 s."""
        self._is_closing = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._is_closing:
            try:
                self.loop.run_forever()
            # A task of user code that raises SystemExit, or stops the loop, must not end it.
            except BaseException as error:
                log.warning("task ended the event loop, which goes on", exc_info=error)
        try:
            self.loop.run_until_complete(_end_tasks())
        except BaseException as error:
            log.warning("task failed at the end of the event loop", exc_info=error)
        finally:
            self.loop.close()


class _Shared:
    thread: CoroutineThread | None = None
    lock = threading.Lock()


def coroutine_thread() -> CoroutineThread:
    """Return the thread of this process for coroutines of user code, started at the first call."""
    with _Shared.lock:
        if _Shared.thread is None:
            _Shared.thread = CoroutineThread()
        return _Shared.thread


def close_coroutine_thread() -> None:
    """End the thread of this process, if it was started."""
    with _Shared.lock:
        thread, _Shared.thread = _Shared.thread, None
    if thread is not None:
        thread.close()


def finished(result: Any) -> Any:
    """Return the result of a call of user code; run it first if it is a coroutine."""
    return coroutine_thread().run(result) if asyncio.iscoroutine(result) else result


async def _end_tasks() -> None:
    """Cancel all other tasks of the loop and wait for them."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
