"""Specifications of the processes of replicas, as pure functions."""

from collections.abc import Mapping
from pathlib import Path

from skysail_management.containers.base import ReplicaSpec
from skysail_management.containers.local.process_records import log_file
from skysail_management.containers.replica_launch import replica_environment

LOG_FILE_VARIABLE = "SKYSAIL_MODEL_SERVER_LOG_FILE"
"""Variable of a replica with the path of its log, which also identifies its child processes."""


def replica_command(python: Path) -> list[str]:
    """Return the command of a replica with this interpreter."""
    return [str(python), "-m", "skysail_model_server"]


def process_environment(
    spec: ReplicaSpec,
    endpoint: str,
    directory: Path,
    blobs: Path,
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """Return the environment of a replica.

    Args:
        spec: The replica.
        endpoint: Endpoint on which it listens.
        directory: Directory of its files.
        blobs: Directory of the blobs of management.
        inherited: Variables that it inherits from management.
    """
    return {
        **inherited,
        **replica_environment(spec, endpoint),
        "SKYSAIL_MODEL_SERVER_MANAGEMENT_ENDPOINT": spec.management_endpoint,
        "SKYSAIL_MODEL_SERVER_TOKEN": spec.token,
        "SKYSAIL_MODEL_SERVER_ARTIFACT_SHA256": spec.version.artifact_sha256,
        "SKYSAIL_MODEL_SERVER_BLOB_SOURCE": str(blobs),
        LOG_FILE_VARIABLE: str(log_file(directory)),
    }
