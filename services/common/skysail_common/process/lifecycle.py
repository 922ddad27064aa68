"""Life-cycle parts of a service process: signals, background tasks, detection of a lost parent."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from skysail_common.errors import SkysailError

log = logging.getLogger(__name__)


class BackgroundTasks:
    """A group of tasks whose failures are logged and reported to the owner of the process.

    The composition root creates the first group and handles its failures. The parts of a service
    derive groups by `group`, and stop them independently.
    """

    def __init__(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """Create an empty group.

        Args:
            on_failure: Callback for the error of each task that fails.
        """
        self._tasks: set[asyncio.Task[Any]] = set()
        self._essential: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure
        self._is_stopping = False

    def group(self) -> "BackgroundTasks":
        """Return an empty group with the same failure callback."""
        return BackgroundTasks(self._on_failure)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Run `work` as a task of this name and return it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def start_essential(self, work: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """Run `work`, which must not end before `stop`: an end without an error is a failure too."""
        task = self.start(work, name)
        self._essential.add(task)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        is_essential = task in self._essential and not self._is_stopping
        self._essential.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None and is_essential:
            error = SkysailError(f"internal error: {task.get_name()!r} ended; see the log")
        if error is not None:
            log.error("background task failed", exc_info=error, extra={"task": task.get_name()})
            if self._on_failure is not None:
                self._on_failure(error)

    async def stop(self) -> None:
        """Cancel every task and wait until all have ended."""
        self._is_stopping = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._is_stopping = False


def stop_event() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set, and also SIGHUP unless the process ignores it.

    A terminal sends SIGHUP when it closes; `nohup` makes a process ignore the signal.
    """
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, event.set)
    return event


async def wait_for_end(stop: asyncio.Event, essential: "Iterable[asyncio.Task[Any]]") -> None:
    """Return when `stop` is set.

    Raises:
        SkysailError: an essential task ended first, with or without an error.
    """
    stopped = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait({stopped, *essential}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
    for task in done - {stopped}:
        raise SkysailError(f"internal error: {task.get_name()!r} ended; see the log")


async def watch_parent(stop: Callable[[], None], after_s: float = 0.0) -> None:
    """Call `stop` when standard input ends, because the parent that held the pipe has ended.

    A killed supervisor cannot stop its children, so that they stop themselves.

    Args:
        stop: Callback, called once.
        after_s: Delay before the call, in seconds.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while await reader.read(1024):
            pass
        log.warning("parent process ended; stopping", extra={"after_s": after_s})
        await asyncio.sleep(after_s)
        stop()
    finally:
        transport.close()
