"""The term of a leader: a management with a lease, from standby to leader and back."""

import asyncio
import platform
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from skysail_common.clock import MONOTONIC
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.process.lifecycle import BackgroundTasks
from skysail_management.leadership.election import LeaseTimes
from skysail_management.leadership.leader_label import LeaderLabel
from skysail_management.leadership.lease import LeaderLease
from skysail_management.leadership.lease_watchdog import LeaseWatchdog
from skysail_management.settings import ManagementSettings


@dataclass(frozen=True)
class LeaderTerm:
    """The term during which this management leads."""

    label: LeaderLabel
    lease_id: str
    """Unique id of the lease; empty if the cluster does not report it."""


@asynccontextmanager
async def hold_leadership(
    settings: ManagementSettings,
    stop: asyncio.Event,
    owner: BackgroundTasks,
    on_standby: Callable[[], None],
) -> AsyncIterator[LeaderTerm | None]:
    """Lead inside the block, which begins when the lease is free; losing it ends the process.

    Yields None if `stop` is set before the term. `owner` gets a failure of the renewal;
    `on_standby` is called while another management leads.

    Raises:
        FailedPrecondition: no Kubernetes configuration is found.
        NotAllowed: a role lacks a rule.
    """
    api = KubernetesApi(
        settings.kubeconfig,
        settings.kubernetes_context,
        settings.kubernetes_proxy_addr,
        settings.kubernetes_namespace,
    )
    lease = LeaderLease(
        api,
        settings.kubernetes_lease,
        # The pod name as identity lets a restarted container keep its lease.
        settings.kubernetes_pod or f"{platform.node()}-{uuid.uuid4().hex[:8]}",
        LeaseTimes(settings.kubernetes_lease_s),
        MONOTONIC,
        LeaseWatchdog(),
    )
    tasks = owner.group()
    try:
        await api.open()
        if not await lease.acquire(stop, on_standby):
            yield None
            return
        tasks.start_essential(lease.keep(), "renew the lease")
        try:
            label = LeaderLabel(api, settings.cluster, settings.kubernetes_pod)
            yield LeaderTerm(label, lease.id)
        finally:
            await tasks.stop()
            await lease.release()
    finally:
        await api.close()
