"""Changes of containers on their way to the one who watches."""

import asyncio
from collections.abc import AsyncIterator

from skysail_management.containers.base import Container


class ContainerChanges:
    """Keeps the latest state of each container that changed until it is taken.

    A slow consumer sees fewer steps, never an old one last; memory is bounded by the number of
    containers.
    """

    def __init__(self) -> None:
        self._changed: dict[str, Container] = {}
        self._arrived = asyncio.Event()

    def publish(self, container: Container) -> None:
        """Say that a container changed."""
        # Moved to the end, so that changes come in the order of their last step.
        self._changed.pop(container.container_id, None)
        self._changed[container.container_id] = container
        self._arrived.set()

    async def watch(self) -> AsyncIterator[Container]:
        """Yield each changed container; never ends."""
        while True:
            while not self._changed:
                self._arrived.clear()
                await self._arrived.wait()
            yield self._changed.pop(next(iter(self._changed)))
