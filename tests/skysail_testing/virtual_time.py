"""An event loop in virtual time, which advances only when all tasks wait."""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

_PATIENCE_S = 10.0
_STEP_S = 0.01
_TURN_S = 1e-6


class _VirtualSelector(selectors.DefaultSelector):
    """A selector that advances the time instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.num_threads = 0
        """Number of calls in threads without a result."""

    def select(self, timeout: float | None = None) -> Any:
        # Each turn takes some time, as on a real machine, so no timer is missed by rounding.
        self.now += _TURN_S
        if timeout is None:
            # The loop has no timer, so only another thread or a file can wake it.
            found = super().select(_PATIENCE_S)
            if not found:
                raise AssertionError("every task waits for something that never comes")
            return found
        if self.num_threads and timeout > 0:
            # The work of a thread takes no virtual time.
            return super().select(_PATIENCE_S)
        found = super().select(0)
        if not found and timeout > 0:
            self.now += timeout
        return found


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeps and timeouts pass at once, in order."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        future = super().run_in_executor(executor, func, *args)
        self._virtual.num_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: object) -> None:
        self._virtual.num_threads -= 1


def virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time; its fixtures must not be async."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        loop = VirtualTimeLoop()
        try:
            loop.run_until_complete(test(*args, **kwargs))
            left = asyncio.all_tasks(loop)
            assert not left, f"tasks outlive the test: {left}"
        finally:
            _cancel_all(loop)
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return run


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


def now() -> float:
    """Return the virtual time; a `Clock`."""
    return asyncio.get_running_loop().time()


async def until(condition: Callable[[], object], within_s: float = 10.0) -> object:
    """Return the first true value of a condition, in virtual time."""
    end = now() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert now() < end, f"not within {within_s:g} s"
        await asyncio.sleep(_STEP_S)


async def pass_time(seconds: float) -> None:
    """Advance virtual time and run everything that is due."""
    await asyncio.sleep(seconds)


async def settle() -> None:
    """Run everything that is due now."""
    await asyncio.sleep(_STEP_S)
