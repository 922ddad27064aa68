"""Detection of a process that runs but has stopped to answer."""

import asyncio
from collections.abc import Awaitable, Callable

from skysail_common.clock import Clock

_EVERY_S = 1.0


async def wait_for_silence(
    answers: Callable[[], Awaitable[bool]], clock: Clock, limit_s: float, patience_s: float
) -> None:
    """Return once a process has not answered for `limit_s`.

    Only time in which the watcher ran counts. A machine that starves or suspends both processes would
    otherwise make the watcher kill a healthy process.

    Args:
        answers: Check that calls the process once; False if no answer came.
        clock: Clock of the watcher.
        limit_s: Longest silence, in seconds.
        patience_s: Longest duration of `answers` if the watcher is not starved.
    """
    silent_s = 0.0
    asked = clock()
    while silent_s < limit_s:
        has_answered = await answers()
        await asyncio.sleep(_EVERY_S)
        now = clock()
        elapsed_s = min(now - asked, patience_s + _EVERY_S)
        silent_s = 0.0 if has_answered else silent_s + elapsed_s
        asked = now
