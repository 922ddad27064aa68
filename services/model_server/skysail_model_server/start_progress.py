"""Progress reports of a starting replica, in its log."""

import asyncio
import logging

from skysail_common.clock import Clock
from skysail_common.replica_events import NOT_READY

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 5.0


class StartProgress:
    """The present start step of a replica; the main thread sets it, the I/O thread reports it."""

    def __init__(self, clock: Clock) -> None:
        """Start at the first step."""
        self._clock = clock
        self._doing = "starting"
        self._since = clock()

    def begin(self, doing: str) -> None:
        """Set and log a step, because user code that holds the interpreter prevents later reports."""
        self.note(doing)
        log.info("%s: %s", NOT_READY, doing)

    def note(self, doing: str) -> None:
        """Set a step, which `run` reports if it takes long."""
        self._doing, self._since = doing, self._clock()

    async def run(self) -> None:
        """Log the present step every few seconds, until this call is cancelled."""
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            log.info("%s: %s", NOT_READY, self.text())

    def text(self) -> str:
        """Return the present step and its duration."""
        doing, since = self._doing, self._since
        return f"{doing}, for {self._clock() - since:.0f} s"
