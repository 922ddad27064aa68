"""What a replica does until it is ready, told in its log."""

import asyncio
import logging

from skysail_common.clock import Clock
from skysail_common.replica_events import NOT_READY

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 5.0


class StartProgress:
    """The step of its start that a replica is at; the main thread sets it, the I/O thread tells it."""

    def __init__(self, clock: Clock) -> None:
        """Be at no step yet; `clock` is time."""
        self._clock = clock
        self._doing = "starting"
        self._since = clock()

    def begin(self, doing: str) -> None:
        """Note and tell a step: code of the user that keeps the interpreter lets nobody tell it later."""
        self.note(doing)
        log.info("%s: %s", NOT_READY, doing)

    def note(self, doing: str) -> None:
        """Note a step, which is told if it takes long."""
        self._doing, self._since = doing, self._clock()

    async def run(self) -> None:
        """Tell every few seconds what takes so long, until cancelled."""
        while True:
            await asyncio.sleep(_REPORT_EVERY_S)
            log.info("%s: %s", NOT_READY, self.text())

    def text(self) -> str:
        """Return the step, and for how long it has lasted."""
        doing, since = self._doing, self._since
        return f"{doing}, for {self._clock() - since:.0f} s"
