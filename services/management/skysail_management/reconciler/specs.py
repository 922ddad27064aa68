"""Specifications of containers, derived from records and settings."""

from dataclasses import dataclass, replace
from math import ceil

from skysail_common.identifiers import ReplicaId
from skysail_common.tokens import replica_token
from skysail_management.containers.base import (
    ContainerManager,
    ReplicaSpec,
    VersionSpec,
    WarmUp,
)
from skysail_management.records import DeploymentRecord, VersionRecord


@dataclass(frozen=True)
class ReconcilerOptions:
    """Settings that all loops share."""

    management_endpoint: str
    """Endpoint from which replicas fetch their artifact."""
    secret: str
    """Key of the replicas' tokens."""
    prepare_timeout_s: float
    drain_timeout_s: float
    stuck_after_s: float
    check_health_s: float
    warm_up_s: float
    log_format: str
    max_concurrent_starts: int = 0
    """Most concurrent starts; 0 for the limit of the container manager."""


def version_spec(record: VersionRecord) -> VersionSpec:
    """Return the part of a version that a container needs."""
    return VersionSpec(
        record.model_version, record.artifact_sha256, record.python_version, record.requirements
    )


def replica_spec(
    version: VersionSpec,
    deployment: DeploymentRecord,
    index: int,
    options: ReconcilerOptions,
    manager: ContainerManager,
    is_measured: bool,
) -> ReplicaSpec:
    """Return the specification of a replica for a container manager.

    The number of threads is that of the deployment, else its CPUs, else the default of the manager.

    Args:
        version: The version of the replica.
        deployment: The desired state.
        index: Its index.
        options: Settings that all replicas share.
        manager: The manager that starts it.
        is_measured: True if the latencies of the version are known.
    """
    resources = deployment.resources
    num_threads = resources.num_threads or ceil(resources.cpus)
    most = deployment.num_replicas
    if deployment.autoscaling is not None:
        # Later replicas get the same threads as the present ones, because one latency profile
        # covers all.
        most = max(most, deployment.autoscaling.max_replicas)
    return ReplicaSpec(
        ReplicaId(version.model_version, index),
        version,
        options.management_endpoint,
        replica_token(options.secret, version.model_version, version.artifact_sha256),
        replace(resources, num_threads=num_threads or manager.default_threads(most)),
        environment=deployment.environment,
        stuck_after_s=options.stuck_after_s,
        check_health_s=options.check_health_s,
        warm_up=WarmUp(
            is_on=deployment.warm_up,
            budget_s=options.warm_up_s,
            max_rows=deployment.serving.max_batch_size,
            is_measured=is_measured,
        ),
        log_format=options.log_format,
    )
