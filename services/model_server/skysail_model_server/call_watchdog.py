"""Ends a replica whose function does not return, so that another takes its place.

main thread   call_began ──► user's function ──► call_ended
I/O thread    every second: has the call taken too long? stack to the log, exit status STUCK

A function that also keeps the interpreter stops the I/O thread. A thread of faulthandler, which needs
no interpreter, waits a little longer: it writes all stacks and ends the process with status 1.
"""

import asyncio
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn

from skysail_common.clock import NEVER, Clock
from skysail_common.model_functions import call_function
from skysail_common.replica_events import STUCK, place_of, where_stuck
from skysail_common.states import ExitCode

log = logging.getLogger(__name__)

_FACTOR = 20
"""A call is stuck if it takes so many times as long as such calls do, and `stuck_after_s`."""
_CHECK_S = 1.0
_STANDARD_ERROR = 2


class CallWatchdog:
    """Knows since when a call of the user's function is under way."""

    def __init__(self, stuck_after_s: float, clock: Clock) -> None:
        """No call is under way.

        Args:
            stuck_after_s: Time after which a call may be stuck; `NEVER` to let calls take any time.
            clock: Time.
        """
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._began = NEVER
        self._expected_us = 0
        self._longest_us = 0
        self._is_running = False

    def learn(self, call_s: float) -> None:
        """Take calls that take so long for normal."""
        self._stuck_after_s = max(self._stuck_after_s, _FACTOR * call_s)

    def call_began(self, expected_us: int) -> None:
        """Note that the main thread calls the user's function.

        Args:
            expected_us: Time that a frontend expects it to take; 0 where it does not know.
        """
        # First: whoever sees this call's beginning must not see another's expectation.
        self._expected_us = expected_us
        if expected_us > self._longest_us:
            self._longest_us = expected_us
            if self._is_running:
                self._guard_interpreter()
        self._began = self._clock()

    def call_ended(self) -> None:
        """Note that the function has returned."""
        self._began = NEVER

    def stuck_for_s(self) -> float:
        """Return how long a call has been under way if that is too long, else 0."""
        began = self._began
        taken_s = self._clock() - began
        is_stuck = taken_s > self._limit_s(self._expected_us)
        return taken_s if is_stuck and self._began == began else 0.0

    def _limit_s(self, expected_us: int) -> float:
        return max(self._stuck_after_s, _FACTOR * expected_us * 1e-6)

    async def run(self, end: Callable[[int], NoReturn] = os._exit) -> None:
        """Look at the call under way every second, and end the process if it is stuck.

        Args:
            end: Ends the process.
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
                        _log_stuck(taken_s)
                    finally:
                        end(ExitCode.STUCK)
        finally:
            self._is_running = False
            faulthandler.cancel_dump_traceback_later()

    def _guard_interpreter(self) -> None:
        """End the process if `run` does not get the interpreter back in time."""
        limit_s = self._limit_s(self._longest_us) + 2 * _CHECK_S
        faulthandler.dump_traceback_later(limit_s, exit=True, file=_STANDARD_ERROR)


def _log_stuck(taken_s: float) -> None:
    """Write where the main thread is to the log, and its stack from the user's function on."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    places: list[str] = []
    trace: TracebackType | None = None
    while frame is not None and frame.f_code is not call_function.__code__:
        code = frame.f_code
        places.append(place_of(code.co_name, code.co_filename, frame.f_lineno))
        trace = TracebackType(trace, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    error = TimeoutError(f"no result after {taken_s:.0f} s")
    # Management, which knows a replica that has ended by its log alone, reads this line.
    where = where_stuck(places)
    log.error("%s: %s%s", STUCK, error, where, exc_info=(TimeoutError, error, trace))
    sys.stderr.flush()
