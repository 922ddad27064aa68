"""What containers are told, made of records and settings."""

from dataclasses import dataclass
from math import ceil

from skysail_common.identifiers import ReplicaId
from skysail_common.tokens import replica_token
from skysail_management.containers.base import ContainerManager, ReplicaSpec, VersionSpec
from skysail_management.records import DeploymentRecord, VersionRecord


@dataclass(frozen=True)
class ReconcilerOptions:
    """What every loop needs to know."""

    management_endpoint: str
    """Where replicas fetch their artifact."""
    secret: str
    """Key of the replicas' tokens."""
    prepare_timeout_s: float
    drain_timeout_s: float
    stuck_after_s: float


def version_spec(record: VersionRecord) -> VersionSpec:
    """Return what a container needs of a version."""
    return VersionSpec(
        record.model_version, record.artifact_sha256, record.python_version, record.requirements
    )


def replica_spec(
    version: VersionSpec,
    deployment: DeploymentRecord,
    index: int,
    options: ReconcilerOptions,
    manager: ContainerManager,
) -> ReplicaSpec:
    """Return what to start as a replica of a manager.

    It has as many threads as the deployment says, else as it has CPUs, else as the manager says.
    """
    num_threads = deployment.num_threads or ceil(deployment.cpus)
    most = deployment.num_replicas
    if deployment.autoscaling is not None:
        # Those that start later are like those that run: one speed is learned for all.
        most = max(most, deployment.autoscaling.max_replicas)
    return ReplicaSpec(
        ReplicaId(version.model_version, index),
        version,
        options.management_endpoint,
        replica_token(options.secret, version.model_version),
        num_threads or manager.default_threads(most),
        deployment.memory_mib,
        deployment.cpus,
        deployment.gpus,
        environment=deployment.environment,
        stuck_after_s=options.stuck_after_s,
    )
