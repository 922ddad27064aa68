"""Slots that bound the concurrent starts, because more starts would starve each other of cores.

Versions take turns: a version that took a slot queues again behind the waiting ones. A version with
a hundred replicas thus delays another by one start, not by a hundred.

Source: Demers et al., "Analysis and Simulation of a Fair Queueing Algorithm", SIGCOMM 1989 (round
robin over the waiting flows); the kubelet bounds image pulls alike (`maxParallelImagePulls`).
Changed: a long start loses its slot, although it continues.
"""

from collections.abc import Callable, Collection

from skysail_common.clock import NEVER, Clock
from skysail_common.identifiers import ModelVersion

HOLD_S = 30.0
"""Longest time that a start holds a slot, so that a start that hangs or downloads blocks no
other."""


class StartSlots:
    """The slots of one container manager, shared by all model versions."""

    def __init__(self, limit: int, clock: Clock) -> None:
        """Create slots for `limit` concurrent starts, at least 1."""
        self._limit = limit
        self._clock = clock
        self._held: dict[tuple[ModelVersion, int], float] = {}
        """Instant at which each replica took its slot."""
        self._waiting: dict[ModelVersion, Callable[[], None]] = {}
        """Callback of each waiting version; the next version in turn is first."""

    @property
    def num_held(self) -> int:
        """Number of held slots."""
        now = self._clock()
        return sum(now < taken_at + HOLD_S for taken_at in self._held.values())

    @property
    def free_at(self) -> float:
        """Instant at which the next slot becomes free without an event."""
        now = self._clock()
        ends = (taken_at + HOLD_S for taken_at in self._held.values())
        return min((end for end in ends if now < end), default=NEVER)

    def take(self, version: ModelVersion, index: int, wake: Callable[[], None]) -> bool:
        """Take a slot for a replica, or queue its version if it is not its turn.

        Args:
            version: The version of the replica.
            index: Index of its replica.
            wake: Called when its turn may have come; the version then calls `take` or `leave`.
        """
        waiting = list(self._waiting)
        turn = waiting.index(version) if version in self._waiting else len(waiting)
        if turn >= self._limit - self.num_held:
            self._waiting.setdefault(version, wake)
            return False
        self._waiting.pop(version, None)
        self._held[version, index] = self._clock()
        return True

    def keep(self, version: ModelVersion, indexes: Collection[int]) -> None:
        """Keep the slots of the starting replicas of a version, and free its other slots."""
        mine = {key for key in self._held if key[0] == version}
        for index in indexes:
            self._held.setdefault((version, index), self._clock())
        freed = mine - {(version, index) for index in indexes}
        for key in freed:
            del self._held[key]
        if freed:
            self._wake_next()

    def leave(self, version: ModelVersion) -> None:
        """Remove a version from the queue, because none of its replicas waits."""
        if self._waiting.pop(version, None) is not None:
            self._wake_next()

    def _wake_next(self) -> None:
        for wake in list(self._waiting.values())[: max(0, self._limit - self.num_held)]:
            wake()
