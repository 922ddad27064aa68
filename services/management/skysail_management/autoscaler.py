"""Scales autoscaled deployments by the load reports of frontends."""

import logging
from collections.abc import Iterable
from math import inf

from skysail_common.clock import Clock
from skysail_common.errors import SkysailError
from skysail_common.identifiers import ModelVersion
from skysail_management.reconciler.autoscaling import (
    AutoscalingOptions,
    AutoscalingPolicy,
    Bounds,
    ObservedLoad,
    ScalingDecision,
)
from skysail_management.reconciler.reconciler import Reconciler
from skysail_management.records import DeploymentRecord, Records
from skysail_protos.v1 import routing_pb2

log = logging.getLogger(__name__)


class Autoscaler:
    """The last load of each version by frontend, and the policy of each version.

    It acts only on reports: without frontends, the load is unknown and nothing changes.
    """

    def __init__(
        self,
        records: Records,
        reconciler: Reconciler,
        options: AutoscalingOptions,
        clock: Clock,
    ) -> None:
        self._records = records
        self._reconciler = reconciler
        self._options = options
        self._clock = clock
        self._loads: dict[ModelVersion, dict[str, ObservedLoad]] = {}
        self._policies: dict[ModelVersion, AutoscalingPolicy] = {}

    async def take(self, frontend_id: str, reports: Iterable[routing_pb2.LoadReport]) -> None:
        """Record the loads that a frontend reports, and scale the versions if necessary."""
        now = self._clock()
        versions = []
        for report in reports:
            load = _load(report, now)
            if load is not None:
                version = ModelVersion(report.model, report.version)
                self._loads.setdefault(version, {})[frontend_id] = load
                versions.append(version)
        self._evict_stale(now)
        for version in versions:
            await self._scale(version, now)

    def forget(self, frontend_id: str) -> None:
        """Drop the reports of a frontend that left, because its queries reach other frontends."""
        for loads in self._loads.values():
            loads.pop(frontend_id, None)

    def _evict_stale(self, now: float) -> None:
        """Drop expired reports, and those of deployments without autoscaling."""
        for version, loads in list(self._loads.items()):
            deployment = self._records.deployments.get(str(version))
            if deployment is None or deployment.autoscaling is None:
                del self._loads[version]
                self._policies.pop(version, None)
                continue
            for frontend_id, load in list(loads.items()):
                if now - load.received_at > self._options.report_timeout_s:
                    del loads[frontend_id]

    async def _scale(self, version: ModelVersion, now: float) -> None:
        deployment = self._records.deployments.get(str(version))
        if version not in self._loads or deployment is None or deployment.autoscaling is None:
            return
        if not deployment.is_rolled_out:
            return
        policy = self._policies.get(version)
        if policy is None:
            policy = self._policies[version] = AutoscalingPolicy(self._options)
        limits = deployment.autoscaling
        decision = policy.decide(
            Bounds(limits.min_replicas, limits.max_replicas),
            deployment.num_replicas,
            self._reconciler.num_ready(version),
            list(self._loads[version].values()),
            now,
        )
        if decision.num_replicas != deployment.num_replicas:
            await self._apply(deployment, decision)

    async def _apply(self, deployment: DeploymentRecord, decision: ScalingDecision) -> None:
        name = str(deployment.model_version)
        changed = deployment.model_copy(update={"num_replicas": decision.num_replicas})
        try:
            async with self._records.lock:
                if self._records.deployments.get(name) != deployment:
                    # A concurrent change wins; the next report uses the new record.
                    return
                change = self._records.deployments.put(name, changed)
                await self._records.commit([change], why=decision.reason)
        except SkysailError as error:
            log.warning("version not scaled", extra={"version": name, "error": error.message})
            return
        self._reconciler.wake(deployment.model_version)


def _load(report: routing_pb2.LoadReport, now: float) -> ObservedLoad | None:
    window_s = report.window.ToNanoseconds() / 1e9
    numbers = (report.capacity_rows_per_s, report.deadline_used)
    if window_s <= 0 or not all(0 <= number < inf for number in numbers):
        return None
    return ObservedLoad(
        now,
        window_s,
        report.arrived_rows,
        report.late_rows,
        report.busy.ToNanoseconds() / 1e9,
        report.capacity_rows_per_s,
        report.deadline_used,
    )
