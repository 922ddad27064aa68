"""From a standby to the leader and back, for a management with a lease."""

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
    """The time in which a management leads."""

    label: LeaderLabel
    lease_id: str
    """Names the lease among all that ever were; empty if the cluster does not say."""


@asynccontextmanager
async def hold_leadership(
    settings: ManagementSettings,
    stop: asyncio.Event,
    owner: BackgroundTasks,
    on_standby: Callable[[], None],
) -> AsyncIterator[LeaderTerm | None]:
    """Lead inside the block, which begins when nobody else does; the process ends if that changes.

    Yields None if `stop` is set before it leads. `owner` hears of a renewal that has ended;
    `on_standby` is called while another leads.

    Raises:
        FailedPrecondition: no Kubernetes cluster is known.
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
        # A pod whose container was started anew need not wait for what it held itself before.
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
