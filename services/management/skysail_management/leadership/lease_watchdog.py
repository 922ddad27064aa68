"""A watchdog that ends the process when the lease is not renewed in time.

A task does not suffice: it does not run while the event loop is blocked, nor after the machine was
suspended, when another management may lead already. The timer of the kernel fires in both cases.
"""

import os
import signal
from typing import NoReturn

from skysail_common.states import ExitCode

_SHORTEST_S = 0.001


class LeaseWatchdog:
    """The alarm of the process, which has only one; created on the main thread."""

    def __init__(self) -> None:
        # An explicit handler is necessary, because process 1 of a container ignores signals without
        # one.
        signal.signal(signal.SIGALRM, lambda *_: self.end("the lease was not renewed in time"))

    def arm(self, after_s: float) -> None:
        """End the process after this time; replaces an earlier call."""
        # Zero would disable the timer.
        signal.setitimer(signal.ITIMER_REAL, max(after_s, _SHORTEST_S))

    def disarm(self) -> None:
        """Disable the timer."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def end(self, why: str) -> NoReturn:
        """End the process at once, without cleanup."""
        # `os.write` is used, because the signal may have interrupted the log.
        os.write(2, f"skysail-management: {why}; exiting at once\n".encode())
        os._exit(ExitCode.UNAVAILABLE)
