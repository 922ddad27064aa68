"""Starts the replicas of one model version concurrently, as far as slots are free."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from skysail_common.clock import NEVER, Clock
from skysail_common.errors import ContainerManagerUnavailable, SkysailError
from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.process.backoff import BackOff
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_management.containers.base import Container, ContainerManager, ReplicaSpec
from skysail_management.reconciler.start_slots import StartSlots

log = logging.getLogger(__name__)

_RETRY_S = 1.0
_MAX_RETRY_S = 30.0


class LaunchObserver(Protocol):
    """Receives the outcomes of starts."""

    def starting(self, replica_id: ReplicaId) -> None:
        """Record that a start begins."""

    def started(self, container: Container) -> None:
        """Record a started container."""

    def start_failed(self, replica_id: ReplicaId, reason: str) -> None:
        """Record a failed start."""

    def start_crashed(self) -> None:
        """Record a start that ended with an unexpected error, which is logged."""

    def wake(self) -> None:
        """Schedule a pass, because a start ended or a slot may be free."""


class Launcher:
    """The starts of one version that are in flight or wait for a slot."""

    def __init__(
        self,
        version: ModelVersion,
        manager: ContainerManager,
        slots: StartSlots,
        observer: LaunchObserver,
        tasks: BackgroundTasks,
        clock: Clock,
    ) -> None:
        """Create an idle launcher; the owner of `tasks` stops them."""
        self._version = version
        self._manager = manager
        self._slots = slots
        self._observer = observer
        self._tasks = tasks
        self._clock = clock
        self._back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
        self._blocked_until = 0.0
        self._loading: set[int] = set()
        self.under_way: set[int] = set()
        """Indexes whose start did not return yet."""
        self._waiting: frozenset[int] = frozenset()

    def begin(
        self, wanted: Sequence[int], make_spec: Callable[[int], ReplicaSpec], timeout_s: float
    ) -> float:
        """Start as many of the replicas as slots are free.

        Args:
            wanted: All indexes to start; they replace those of the previous call.
            make_spec: Returns the specification of a replica.
            timeout_s: Longest time of one start, in seconds.

        Returns:
            The instant of the next call, unless an event comes first.
        """
        wanted = [index for index in wanted if index not in self.under_way]
        self._waiting = frozenset()
        if not wanted or self._clock() < self._blocked_until:
            self._slots.leave(self._version)
            return self._blocked_until if wanted else NEVER
        for number, index in enumerate(wanted):
            spec = make_spec(index)
            if not self._slots.take(self._version, index, self._observer.wake):
                self._waiting = frozenset(wanted[number:])
                return self._slots.free_at
            self.under_way.add(index)
            self._loading.add(index)
            self._observer.starting(spec.replica_id)
            self._tasks.start(self._start(spec, timeout_s), f"start {spec.replica_id}")
        self._slots.leave(self._version)
        return NEVER

    def waiting_reason(self, index: int) -> str:
        """Return why a replica is not started yet, for people; empty if it does not wait."""
        if index not in self._waiting:
            return ""
        others = self._slots.num_held
        verb = "other is" if others == 1 else "others are"
        return f"waiting for a start slot: {others} {verb} starting"

    def keep_slots(self, loading: set[int]) -> None:
        """Keep the slots of the starts in flight and of the loading replicas."""
        self._slots.keep(self._version, self._loading | loading)

    def yield_turn(self) -> None:
        """Leave the queue for slots until the next `begin`, so that other versions can start."""
        self._waiting = frozenset()
        self._slots.leave(self._version)

    def leave(self) -> None:
        """Free all slots and leave the queue."""
        self._loading.clear()
        self.yield_turn()
        self._slots.keep(self._version, ())

    async def _start(self, spec: ReplicaSpec, timeout_s: float) -> None:
        index = spec.replica_id.index
        work = asyncio.ensure_future(self._manager.start(spec))
        try:
            await asyncio.wait({work}, timeout=timeout_s)
            if work.done():
                self._record(spec.replica_id, work)
            else:
                # The slot becomes free, but the index stays in use until the call returns.
                self._loading.discard(index)
                self._observer.start_failed(
                    spec.replica_id, f"its start did not return within {timeout_s:g} s"
                )
        finally:
            work.cancel()
            await asyncio.wait({work})
            self._loading.discard(index)
            self.under_way.discard(index)
            self._observer.wake()

    def _record(self, replica_id: ReplicaId, work: "asyncio.Future[Container]") -> None:
        try:
            container = work.result()
        except ContainerManagerUnavailable as error:
            facts = {"replica": replica_id, "error": error.message}
            log.warning("replica not started", extra=facts)
            self._pause()
        except SkysailError as error:
            self._observer.start_failed(replica_id, error.message)
        except Exception:
            # An error in the files or engine of this version must not end its loop.
            log.exception("replica not started", extra={"replica": replica_id})
            self._observer.start_crashed()
            self._pause()
        else:
            self._back_off.reset()
            self._observer.started(container)

    def _pause(self) -> None:
        self._blocked_until = self._clock() + self._back_off.next_s()
