"""Ends the process when its time is over, whatever it does then.

A task could not: it does not run while something else holds the event loop, nor after the machine
stood still, when another may lead already. The kernel's timer goes on, and its signal comes first.
"""

import os
import signal
from typing import NoReturn

from skysail_common.states import ExitCode

_SHORTEST_S = 0.001


class LeaseWatchdog:
    """The alarm clock of the process, of which it has one; made on the main thread."""

    def __init__(self) -> None:
        # A handler of ours, because process 1 of a container ignores what has none.
        signal.signal(signal.SIGALRM, lambda *_: self.end("the lease was not renewed in time"))

    def arm(self, after_s: float) -> None:
        """End the process after this time, and no longer when it was told to before."""
        # Zero would mean never.
        signal.setitimer(signal.ITIMER_REAL, max(after_s, _SHORTEST_S))

    def disarm(self) -> None:
        """Let the process live."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def end(self, why: str) -> NoReturn:
        """End the process at once: nothing is finished, nothing is cleaned up."""
        # Not by a log, which the signal may have interrupted.
        os.write(2, f"skysail-management: {why}; it ends at once\n".encode())
        os._exit(ExitCode.UNAVAILABLE)
