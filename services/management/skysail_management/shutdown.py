"""The end of a management process: what triggers it, and the error that it ends with."""

import asyncio
import logging
from collections.abc import Awaitable

from skysail_common.errors import SkysailError
from skysail_common.process.lifecycle import stop_event

log = logging.getLogger(__name__)


class Shutdown:
    """The request to shut down, and its cause."""

    def __init__(self) -> None:
        self.event = stop_event()
        """Set by a signal, by the end of the parent process, or by a failure."""
        self.is_orphan = False
        """True if the parent process ended."""
        self.failure: BaseException | None = None
        """The first failure of an essential part; None after a signal."""

    def orphan(self) -> None:
        """Shut down because the parent process ended."""
        self.is_orphan = True
        self.event.set()

    def fail(self, error: BaseException) -> None:
        """Shut down because an essential part failed; the replicas stay for the next management."""
        self.failure = self.failure or error
        self.event.set()

    async def guard(self, work: Awaitable[None]) -> None:
        """Await essential work, and shut down if it raises an error that concerns operators."""
        try:
            await work
        except SkysailError as error:
            log.error("management stopping", extra={"error": error.message})
            self.fail(error)
            # The task stays pending, because its end would be logged as a second failure.
            await asyncio.Event().wait()

    def raise_failure(self) -> None:
        """Raise the failure of an essential part, if any.

        Raises:
            SkysailError: the failure.
        """
        if isinstance(self.failure, SkysailError):
            raise self.failure
        if self.failure is not None:
            raise SkysailError(
                f"internal error: an essential task ended ({self.failure!r}); see the log"
            )
