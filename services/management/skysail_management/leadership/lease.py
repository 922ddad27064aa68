"""The lease of the leader: acquired, renewed and released.

`kubernetes.aio.leaderelection` (of 37.0) does not suffice: if the API server is unreachable, its
loop ends with an error while the started work continues without a lease. A request that hangs is
not bounded by the deadline, the loop uses the wall clock, and it never releases the lease, so that
each orderly restart would take the whole duration.
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
    """Ends the process, such as `LeaseWatchdog`."""

    def arm(self, after_s: float) -> None:
        """End the process after this time; replaces an earlier call."""

    def disarm(self) -> None:
        """Cancel the end of the process."""

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
        """Create a candidate without the lease.

        Args:
            api: The Kubernetes cluster, in the namespace of the lease.
            name: Name of the lease, which may not exist yet.
            identity: Name of the candidate, unique among all.
            times: Times of the lease.
            clock: Clock of this machine.
            alarm: Ends the process if the lease is lost.
        """
        self._api = api
        self._name = name
        self._times = times
        self._clock = clock
        self._alarm = alarm
        self._election = Election(identity, times.duration_s, clock)
        self._last_reason = ""
        self.id = ""
        """Unique id of the lease, after the first observation."""

    async def acquire(
        self, stop: asyncio.Event, on_standby: Callable[[], None] = lambda: None
    ) -> bool:
        """Return True when the lease is held, or False if `stop` is set before.

        From then on the process ends in time unless `keep` runs.

        Args:
            stop: Ends the wait.
            on_standby: Called whenever another candidate holds the lease.

        Raises:
            NotAllowed: a role lacks a rule.
            ClusterRefused: the lease cannot be written.
        """
        while not stop.is_set():
            try:
                if await self._attempt():
                    log.info("lease acquired", extra={"lease": self._name})
                    return True
                self._log_standby(f"{self._election.holder or 'another'} holds the lease")
                on_standby()
            except (ContainerManagerUnavailable, NotInCluster) as error:
                self._log_standby(error.message)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), self._times.look_every_s)
        return False

    def _log_standby(self, why: str) -> None:
        if why != self._last_reason:
            self._last_reason = why
            log.info("standby waiting", extra={"lease": self._name, "reason": why})

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
        """Release the lease after all work ended, so that another candidate need not wait."""
        self._alarm.disarm()
        try:
            await self._within_time(self._release())
        except SkysailError as error:
            log.warning("lease not released", extra={"error": error.message})

    async def _release(self) -> None:
        lease = await self._read_lease()
        if self._election.is_ours:
            await self._api.replace({**lease, "spec": self._election.release_spec()})

    async def _attempt(self) -> bool:
        """Take or renew the lease if the election allows it; return whether it succeeded."""
        return await self._within_time(self._take_or_renew())

    async def _take_or_renew(self) -> bool:
        # The time starts before the request, because others count from the change that it makes.
        began = self._clock()
        lease = await self._read_lease()
        if not self._election.may_take():
            return False
        try:
            taken = await self._api.replace({**lease, "spec": self._election.claim()})
        except ChangedMeanwhile:
            return False
        self._election.observe(taken)
        self._alarm.arm(began + self._times.renew_deadline_s - self._clock())
        return True

    async def _read_lease(self) -> Object:
        lease = await self._api.get(LEASE, self._name)
        self._election.observe(lease)
        self.id = str(lease["metadata"].get("uid") or "")
        return lease

    async def _within_time(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        # `wait_for` is not used, because before Python 3.12 it loses a cancellation that coincides
        # with the result.
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
