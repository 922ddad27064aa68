"""A watchdog that ends a replica whose function does not return, so that another replaces it.

threads       call_began ──► user's function ──► call_ended
I/O thread    every second: has the call taken too long? stack to the log, exit status STUCK

A function that also holds the interpreter blocks the I/O thread. A thread of faulthandler, which needs
no interpreter, waits a little longer, writes all stacks and ends the process with status 1.
"""

import asyncio
import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import NoReturn

from skysail_common.clock import NEVER, Clock
from skysail_common.replica_events import STUCK, place_of, where_stuck
from skysail_common.states import ExitCode
from skysail_model_server.user_stacks import main_frames, running_frames

log = logging.getLogger(__name__)

_FACTOR = 20
"""A call is stuck if it exceeds both `stuck_after_s` and this multiple of its expected time."""
_CHECK_S = 1.0
_STANDARD_ERROR = 2


class CallWatchdog:
    """A timer of the present call of the user's function."""

    def __init__(self, stuck_after_s: float, clock: Clock) -> None:
        """Create the watchdog; `call_began` starts its timer.

        Args:
            stuck_after_s: Time after which a call may be stuck; `NEVER` for no limit.
            clock: Clock of the timer.
        """
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._began = NEVER
        self._expected_us = 0
        self._longest_us = 0
        self._is_running = False
        self._waiting_frames: Callable[[], list[FrameType]] = list

    def learn(self, call_s: float, waiting_frames: Callable[[], list[FrameType]] = list) -> None:
        """Raise the limit for a model whose normal calls take `call_s`.

        Args:
            call_s: Time of a normal call, in seconds.
            waiting_frames: Returns the frames of a call that no thread runs because it waits.
        """
        self._stuck_after_s = max(self._stuck_after_s, _FACTOR * call_s)
        self._waiting_frames = waiting_frames

    def call_began(self, expected_us: int) -> None:
        """Start the timer for a call of the user's function.

        Args:
            expected_us: Time that a frontend expects the call to take; 0 if unknown.
        """
        # The expectation is set before the start, because the I/O thread reads both.
        self._expected_us = expected_us
        if expected_us > self._longest_us:
            self._longest_us = expected_us
            if self._is_running:
                self._guard_interpreter()
        self._began = self._clock()

    def call_ended(self) -> None:
        """Stop the timer after the function has returned."""
        self._began = NEVER

    def stuck_for_s(self) -> float:
        """Return the duration of the present call if it is stuck, else 0."""
        began = self._began
        taken_s = self._clock() - began
        is_stuck = taken_s > self._limit_s(self._expected_us)
        return taken_s if is_stuck and self._began == began else 0.0

    def _limit_s(self, expected_us: int) -> float:
        return max(self._stuck_after_s, _FACTOR * expected_us * 1e-6)

    async def run(self, end: Callable[[int], NoReturn] = os._exit) -> None:
        """Check the present call every second, and end the process if it is stuck.

        Args:
            end: Function that ends the process.
        """
        if self._stuck_after_s == NEVER:
            return
        self._is_running = True
        try:
            while True:
                self._guard_interpreter()
                await asyncio.sleep(_CHECK_S)
                if (taken_s := self.stuck_for_s()) > 0:
                    try:
                        frames = running_frames() or self._waiting_frames() or main_frames()
                        _log_stuck(taken_s, frames)
                    finally:
                        end(ExitCode.STUCK)
        finally:
            self._is_running = False
            faulthandler.cancel_dump_traceback_later()

    def _guard_interpreter(self) -> None:
        """Make faulthandler end the process if `run` does not get the interpreter in time."""
        limit_s = self._limit_s(self._longest_us) + 2 * _CHECK_S
        faulthandler.dump_traceback_later(limit_s, exit=True, file=_STANDARD_ERROR)


def _log_stuck(taken_s: float, frames: Sequence[FrameType]) -> None:
    """Log the place and the stack of a call that does not return.

    Args:
        taken_s: Duration of the call.
        frames: Frames of the user's function, innermost first.
    """
    places: list[str] = []
    trace: TracebackType | None = None
    for frame in frames:
        code = frame.f_code
        places.append(place_of(code.co_name, code.co_filename, frame.f_lineno))
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno)
    error = TimeoutError(f"no result after {taken_s:.0f} s")
    # Management reads this line, because the log is its only source after the end of a replica.
    where = where_stuck(places)
    log.error("%s: %s%s", STUCK, error, where, exc_info=(TimeoutError, error, trace))
    sys.stderr.flush()
