"""How many replicas start at once: more would starve each other of the cores that they load on.

Versions take turns: one that has taken a slot queues again behind those that wait, so that a version
with a hundred replicas holds up another by one start, not by a hundred.

Source: Demers et al., "Analysis and Simulation of a Fair Queueing Algorithm", SIGCOMM 1989 (round robin
over the flows that wait); kubelet bounds image pulls alike (`maxParallelImagePulls`). Changed: a start
that takes long loses its slot, although it goes on.
"""

from collections.abc import Callable, Collection

from skysail_common.clock import NEVER, Clock
from skysail_common.identifiers import ModelVersion

HOLD_S = 30.0
"""Longest time that a start counts: one that hangs, or waits for a download, holds up no other."""


class StartSlots:
    """The slots of one container manager, shared by all model versions."""

    def __init__(self, limit: int, clock: Clock) -> None:
        """Slots for `limit` starts at once, at least 1."""
        self._limit = limit
        self._clock = clock
        self._held: dict[tuple[ModelVersion, int], float] = {}
        """Instant at which each replica took its slot."""
        self._waiting: dict[ModelVersion, Callable[[], None]] = {}
        """Wakes each version that waits; the next in turn is first."""

    @property
    def num_held(self) -> int:
        """How many starts count now."""
        now = self._clock()
        return sum(now < taken_at + HOLD_S for taken_at in self._held.values())

    @property
    def free_at(self) -> float:
        """Instant at which the next slot becomes free by the passing of time alone."""
        now = self._clock()
        ends = (taken_at + HOLD_S for taken_at in self._held.values())
        return min((end for end in ends if now < end), default=NEVER)

    def take(self, version: ModelVersion, index: int, wake: Callable[[], None]) -> bool:
        """Take a slot for a replica; if it is not its version's turn, queue the version.

        Args:
            version: The version that asks.
            index: Index of its replica.
            wake: Called when it may be its turn; it then asks again or leaves.
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
        """Note which replicas of a version are starting; slots of its others become free."""
        mine = {key for key in self._held if key[0] == version}
        for index in indexes:
            self._held.setdefault((version, index), self._clock())
        freed = mine - {(version, index) for index in indexes}
        for key in freed:
            del self._held[key]
        if freed:
            self._wake_next()

    def leave(self, version: ModelVersion) -> None:
        """Queue no longer: nothing of the version waits."""
        if self._waiting.pop(version, None) is not None:
            self._wake_next()

    def _wake_next(self) -> None:
        for wake in list(self._waiting.values())[: max(0, self._limit - self.num_held)]:
            wake()
