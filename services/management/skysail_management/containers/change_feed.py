"""Changes of containers on their way to the one who watches."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from skysail_common.errors import SkysailError
from skysail_common.process.backoff import BackOff
from skysail_management.containers.base import Container

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.2
_MAX_RETRY_S = 5.0


class ChangeFeed:
    """Keeps the latest state of each container that changed until it is taken.

    A slow consumer sees fewer steps, never an old one last; memory is bounded by the number of
    containers.
    """

    def __init__(self) -> None:
        self._changed: dict[str, Container] = {}
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None

    def publish(self, container: Container) -> None:
        """Say that a container changed."""
        # Moved to the end, so that changes come in the order of their last step.
        self._changed.pop(container.container_id, None)
        self._changed[container.container_id] = container
        self._arrived.set()

    def fail(self, error: BaseException) -> None:
        """End the watch: the manager observes its engine no longer."""
        self._failure = self._failure or error
        self._arrived.set()

    async def watch(self) -> AsyncIterator[Container]:
        """Yield each changed container; never ends but by an error.

        Raises:
            SkysailError: the manager observes its engine no longer.
        """
        while True:
            while not self._changed:
                if self._failure is not None:
                    raise SkysailError(
                        "internal error: the container manager watches no longer; see the log"
                    ) from self._failure
                self._arrived.clear()
                await self._arrived.wait()
            yield self._changed.pop(next(iter(self._changed)))


async def retry_until_done(work: Callable[[], Awaitable[None]], what: str) -> None:
    """Do work that concerns one container, again after each unforeseen failure, until it is done.

    One container must not end the watch of the others, nor be forgotten for the life of the process.
    """
    back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
    while True:
        try:
            await work()
        except Exception:
            log.exception("work on a container failed", extra={"work": what})
        else:
            return
        await asyncio.sleep(back_off.next_s())
