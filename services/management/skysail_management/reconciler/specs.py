"""What containers are told, made of records and settings."""

import os
from dataclasses import dataclass

from skysail_common.identifiers import ReplicaId
from skysail_common.tokens import replica_token
from skysail_management.containers.base import ReplicaSpec, VersionSpec
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


def version_spec(record: VersionRecord) -> VersionSpec:
    """Return what a container needs of a version."""
    return VersionSpec(
        record.model_version, record.artifact_sha256, record.python_version, record.requirements
    )


def replica_spec(
    version: VersionSpec, deployment: DeploymentRecord, index: int, options: ReconcilerOptions
) -> ReplicaSpec:
    """Return what to start as a replica; without a wish, replicas share the cores."""
    cores = os.cpu_count() or 1
    return ReplicaSpec(
        ReplicaId(version.model_version, index),
        version,
        options.management_endpoint,
        replica_token(options.secret, version.model_version),
        deployment.num_threads or max(1, cores // max(1, deployment.num_replicas)),
        deployment.memory_mib,
        environment=deployment.environment,
    )
