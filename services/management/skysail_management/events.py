"""Events of deployments, for the callers that follow them."""

import asyncio
import enum
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from skysail_common.identifiers import ModelVersion

_MAX_WAITING = 1000
"""Buffer of a slow subscriber, in events; the oldest are dropped beyond."""


class DeployStep(enum.IntEnum):
    """The kind of an event; numbers as in `skysail.v1.DeployStep`."""

    REGISTERED = 1
    PREPARING = 2
    STARTING = 3
    READY = 4
    RETRYING = 5
    PROMOTED = 6
    DONE = 7
    FAILED = 8
    NOTICE = 9
    ROUTED = 10

    @property
    def is_last(self) -> bool:
        """True for the last event of a deployment."""
        return self in (DeployStep.DONE, DeployStep.FAILED)


@dataclass(frozen=True)
class DeployEvent:
    """One event of a deployment."""

    step: DeployStep
    message: str
    replica_id: str = ""
    log_tail: str = ""
    num_ready: int = 0
    num_replicas: int = 0
    version: str = ""
    """Set by `publish`."""


class Subscription:
    """The events of one version since the subscription."""

    def __init__(self) -> None:
        self._events: deque[DeployEvent] = deque(maxlen=_MAX_WAITING)
        self._arrived = asyncio.Event()

    def add(self, event: DeployEvent) -> None:
        """Add an event."""
        self._events.append(event)
        self._arrived.set()

    async def next(self) -> DeployEvent:
        """Wait for the next event and return it."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


class DeployEvents:
    """Delivers events to subscribers; stores none."""

    def __init__(self) -> None:
        self._subscriptions: dict[ModelVersion, set[Subscription]] = {}

    def publish(self, version: ModelVersion, event: DeployEvent) -> None:
        """Deliver an event to every subscriber of the version."""
        named = replace(event, version=version.version)
        for subscription in self._subscriptions.get(version, ()):
            subscription.add(named)

    @contextmanager
    def subscribe(self, version: ModelVersion) -> Iterator[Subscription]:
        """Yield a subscription that ends with the `with` block."""
        subscription = Subscription()
        subscriptions = self._subscriptions.setdefault(version, set())
        subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            subscriptions.discard(subscription)
            if not subscriptions:
                self._subscriptions.pop(version, None)
