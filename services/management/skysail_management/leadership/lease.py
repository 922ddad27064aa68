"""Waits for a lease of Kubernetes, renews it, and lets go of it.

Why not `kubernetes.aio.leaderelection` (looked at in 37.0): where the API server cannot be reached
its loop ends with an error and what it started goes on without a lease; a request that hangs is not
bounded by the deadline; it goes by the wall clock; and it never lets go, so that each orderly restart
would take the whole duration.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from skysail_common.clock import Clock
from skysail_common.errors import ContainerManagerUnavailable, SkysailError
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import ChangedMeanwhile, NotInCluster
from skysail_common.kubernetes.kinds import LEASE, Object
from skysail_management.leadership.election import Election, LeaseTimes

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class Alarm(Protocol):
    """What ends the process, such as `LeaseWatchdog`."""

    def arm(self, after_s: float) -> None:
        """End the process after this time; replaces an earlier call."""

    def disarm(self) -> None:
        """Let the process live."""

    def end(self, why: str) -> None:
        """End the process at once."""


class LeaderLease:
    """One candidate for a lease."""

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        identity: str,
        times: LeaseTimes,
        clock: Clock,
        alarm: Alarm,
    ) -> None:
        """Starts without the lease.

        Args:
            api: The cluster, seen from the namespace of the lease.
            name: Name of the lease, which exists or will.
            identity: Name of the candidate, unique among all.
            times: How long it is held.
            clock: A clock of this machine.
            alarm: Ends the process where the lease is lost.
        """
        self._api = api
        self._name = name
        self._times = times
        self._clock = clock
        self._alarm = alarm
        self._election = Election(identity, times.duration_s, clock)
        self._told = ""
        self.id = ""
        """Names the lease among all that ever were, once it was seen."""

    async def acquire(
        self, stop: asyncio.Event, on_standby: Callable[[], None] = lambda: None
    ) -> bool:
        """Return True once the lease is held, or False if `stop` is set before.

        From then on the process ends in time if `keep` does not run.

        Args:
            stop: Ends the wait.
            on_standby: Called whenever another is seen to hold it.

        Raises:
            NotAllowed: a role lacks a rule.
            ClusterRefused: the lease cannot be written.
        """
        while not stop.is_set():
            try:
                if await self._attempt():
                    log.info("leads", extra={"lease": self._name})
                    return True
                self._tell(f"{self._election.holder or 'another'} holds the lease")
                on_standby()
            except (ContainerManagerUnavailable, NotInCluster) as error:
                self._tell(error.message)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), self._times.look_every_s)
        return False

    def _tell(self, why: str) -> None:
        if why != self._told:
            self._told = why
            log.info("waits as a standby", extra={"lease": self._name, "reason": why})

    async def keep(self) -> None:
        """Renew the lease until this is cancelled."""
        while True:
            await asyncio.sleep(self._times.renew_every_s)
            try:
                await self._attempt()
            except SkysailError as error:
                log.warning("lease not renewed", extra={"error": error.message})
            if not self._election.is_ours:
                self._alarm.end(f"{self._election.holder or 'nobody'!r} holds the lease now")

    async def release(self) -> None:
        """Let go of the lease, so that another need not wait; called when all work has ended."""
        self._alarm.disarm()
        try:
            await self._within_time(self._let_go())
        except SkysailError as error:
            log.warning("lease not released", extra={"error": error.message})

    async def _let_go(self) -> None:
        lease = await self._observed()
        if self._election.is_ours:
            await self._api.replace({**lease, "spec": self._election.release_spec()})

    async def _attempt(self) -> bool:
        """Take or renew the lease if that is right, and tell whether it was done."""
        return await self._within_time(self._taken())

    async def _taken(self) -> bool:
        # Before anybody could see the change from which others count.
        began = self._clock()
        lease = await self._observed()
        if not self._election.may_take():
            return False
        try:
            taken = await self._api.replace({**lease, "spec": self._election.claim()})
        except ChangedMeanwhile:
            return False
        self._election.observe(taken)
        self._alarm.arm(began + self._times.renew_deadline_s - self._clock())
        return True

    async def _observed(self) -> Object:
        lease = await self._api.get(LEASE, self._name)
        self._election.observe(lease)
        self.id = str(lease["metadata"].get("uid") or "")
        return lease

    async def _within_time(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        # No wait_for: before Python 3.12 it loses a cancellation that comes along with its result.
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=self._times.attempt_s)
            if not task.done():
                raise ContainerManagerUnavailable(
                    f"Kubernetes does not answer within {self._times.attempt_s:g} s"
                )
            return task.result()
        finally:
            task.cancel()
