"""Specifications of containers, made of records and settings."""

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
    """The dependencies of every loop."""

    management_endpoint: str
    """Where replicas fetch their artifact."""
    secret: str
    """Key of the replicas' tokens."""
    prepare_timeout_s: float
    drain_timeout_s: float
    stuck_after_s: float
    warm_up_s: float
    log_format: str
    max_concurrent_starts: int = 0
    """Replicas that may start at once; 0 for what the container manager says."""


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
    """Return what to start as a replica of a manager.

    It has as many threads as the deployment says, else as it has CPUs, else as the manager says.

    Args:
        version: What it is a replica of.
        deployment: What operators asked for.
        index: Its index.
        options: What all replicas have in common.
        manager: Will run it.
        is_measured: Whether it is known how fast the version is.
    """
    resources = deployment.resources
    num_threads = resources.num_threads or ceil(resources.cpus)
    most = deployment.num_replicas
    if deployment.autoscaling is not None:
        # Those that start later are like those that run: one speed is learned for all.
        most = max(most, deployment.autoscaling.max_replicas)
    return ReplicaSpec(
        ReplicaId(version.model_version, index),
        version,
        options.management_endpoint,
        replica_token(options.secret, version.model_version, version.artifact_sha256),
        replace(resources, num_threads=num_threads or manager.default_threads(most)),
        environment=deployment.environment,
        stuck_after_s=options.stuck_after_s,
        warm_up=WarmUp(
            is_on=deployment.warm_up,
            budget_s=options.warm_up_s,
            max_rows=deployment.serving.max_batch_size,
            is_measured=is_measured,
        ),
        log_format=options.log_format,
    )
