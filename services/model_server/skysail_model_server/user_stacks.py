"""The stacks of calls of the user's function that have not returned."""

import asyncio
import sys
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

from skysail_common.model_functions import CALLERS


def running_frames() -> list[FrameType]:
    """Return the frames of the call that a thread runs, innermost first; empty if none does.

    The main thread comes before the threads of side-by-side calls.
    """
    for frames in [main_frames(), *map(_outwards, sys._current_frames().values())]:
        if found := _user_frames(frames):
            return found
    return []


def main_frames() -> list[FrameType]:
    """Return all frames of the main thread, innermost first."""
    return list(_outwards(sys._current_frames().get(threading.main_thread().ident or 0)))


def waiting_frames(loop: asyncio.AbstractEventLoop) -> list[FrameType]:
    """Return the frames of a coroutine of the user that waits, innermost first; empty if none does."""
    for task in asyncio.all_tasks(loop):
        if frames := _user_frames(reversed(_awaited_frames(task.get_coro()))):
            return frames
    return []


def _user_frames(innermost_first: Iterable[FrameType]) -> list[FrameType]:
    frames: list[FrameType] = []
    for frame in innermost_first:
        if frame.f_code in CALLERS:
            return frames
        frames.append(frame)
    return []


def _outwards(frame: FrameType | None) -> Iterable[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaited_frames(coroutine: Any) -> list[FrameType]:
    """Return the frame of a coroutine and of each one that it awaits, outermost first."""
    frames: list[FrameType] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames
