"""The feed of container changes from a manager to its watcher."""

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
    """The latest state of each changed container, until the watcher takes it.

    A slow watcher skips intermediate states but always gets the last one. Memory is bounded by the
    number of containers.
    """

    def __init__(self) -> None:
        self._changed: dict[str, Container] = {}
        self._arrived = asyncio.Event()
        self._failure: BaseException | None = None

    def publish(self, container: Container) -> None:
        """Add the new state of a container."""
        # Reinserting moves the entry to the end, which orders the feed by the last change.
        self._changed.pop(container.container_id, None)
        self._changed[container.container_id] = container
        self._arrived.set()

    def fail(self, error: BaseException) -> None:
        """End the watch, because the manager lost its own watch of the engine."""
        self._failure = self._failure or error
        self._arrived.set()

    async def watch(self) -> AsyncIterator[Container]:
        """Yield each changed container until the manager fails.

        Raises:
            SkysailError: the manager lost its watch of the engine.
        """
        while True:
            while not self._changed:
                if self._failure is not None:
                    raise SkysailError(
                        "internal error: the watch of the container manager ended; see the log"
                    ) from self._failure
                self._arrived.clear()
                await self._arrived.wait()
            yield self._changed.pop(next(iter(self._changed)))


async def retry_until_done(work: Callable[[], Awaitable[None]], what: str) -> None:
    """Retry work on one container after each unexpected error, with backoff.

    An error about one container must neither end the watch of the others nor leave that container
    unwatched.
    """
    back_off = BackOff(_FIRST_RETRY_S, _MAX_RETRY_S)
    while True:
        try:
            await work()
        except Exception:
            log.exception("container work failed", extra={"work": what})
        else:
            return
        await asyncio.sleep(back_off.next_s())
