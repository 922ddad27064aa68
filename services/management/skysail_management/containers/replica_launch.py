"""Labels, variables and the Python check of replicas, shared by all back ends."""

import re

from skysail_management.containers.base import PrepareFailed, ReplicaSpec, VersionSpec

GPUS_LABEL = "gpus"
"""Name of the label with the reserved GPUs, which a container without GPUs lacks."""

LABELS = ("cluster", "model", "version", "replica", "artifact")
"""Names of the labels of a container."""

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def _shared_gpu(fraction: float) -> dict[str, str]:
    """Return the variables by which libraries leave the rest of a GPU to others.

    The model server caps torch. TensorFlow has no cap here, but takes memory only as it needs it.
    """
    return {
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{fraction:g}",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


def python_minor(python: str) -> str:
    """Return the minor version of a Python, such as 3.11 for 3.11.7; empty for other texts."""
    found = re.match(r"\d+\.\d+", python)
    return found[0] if found else ""


def can_run(python: str, version: VersionSpec) -> bool:
    """Return whether a Python, such as 3.11.2, can load the artifact of a version."""
    wanted = python_minor(version.python_version)
    return not wanted or wanted == python_minor(python)


def check_python(
    version: VersionSpec,
    found: str,
    where: str = "replicas here run",
    fix: str = "start the cluster with Python {}",
) -> None:
    """Check that replicas of the version can run on this Python, such as 3.11.2.

    Args:
        version: The version, which needs the minor version of Python that built its artifact.
        found: The available Python.
        where: Subject and verb for the available Python, for the message.
        fix: How to get the right Python; `{}` stands for its minor version.

    Raises:
        PrepareFailed: the artifact needs another minor version.
    """
    if not can_run(found, version):
        raise wrong_python(version, found, where, fix)


def wrong_python(version: VersionSpec, found: str, where: str, fix: str) -> PrepareFailed:
    """Return the error for a Python that cannot load a version; arguments as for `check_python`."""
    wanted, here = python_minor(version.python_version), python_minor(found)
    return PrepareFailed(
        f"{version.model_version} was made with Python {version.python_version}, and "
        f"{where} Python {here}: make it with {here}, or {fix.format(wanted)}"
    )


def image_kept(version: VersionSpec, image: str, configured: str, python: str) -> str:
    """Return the message that a version keeps its image, because it needs another Python.

    Args:
        version: The version.
        image: The image that it keeps.
        configured: The image of the settings.
        python: The Python of the configured image.
    """
    return (
        f"{version.model_version} keeps the image {image}: it needs Python "
        f"{python_minor(version.python_version)}, and that of {configured} is {python}"
    )


def replica_name(spec: ReplicaSpec) -> str:
    """Return a name for people; every container of a replica has the same name."""
    version = spec.replica_id.model_version
    return f"{version.model_name}.{version.version}.{spec.replica_id.index}"


def replica_labels(cluster: str, spec: ReplicaSpec) -> dict[str, str]:
    """Return the labels of a container, which name the cluster and the replica."""
    return {
        "cluster": cluster,
        "model": spec.replica_id.model_version.model_name,
        "version": spec.replica_id.model_version.version,
        "replica": str(spec.replica_id.index),
        "artifact": spec.version.artifact_sha256,
    }


def replica_environment(spec: ReplicaSpec, endpoint: str, default_gpus: int = 0) -> dict[str, str]:
    """Return the variables of a replica that listens on `endpoint`, with those of the operator.

    The back end adds the variables for the artifact.

    Args:
        spec: The replica.
        endpoint: Endpoint on which it listens.
        default_gpus: GPUs of a replica whose deployment gives none; -1 for all.
    """
    gpus = spec.resources.gpus or abs(default_gpus)
    budget_s = 0.0 if spec.warm_up.is_measured else spec.warm_up.budget_s
    return {
        **dict.fromkeys(_THREADS, str(spec.resources.num_threads)),
        "PYTHONUNBUFFERED": "1",
        **(_shared_gpu(gpus) if 0 < gpus < 1 else {}),
        **spec.environment,
        "SKYSAIL_MODEL_SERVER_REPLICA_ID": str(spec.replica_id),
        "SKYSAIL_MODEL_SERVER_LISTEN_ADDRESS": endpoint,
        "SKYSAIL_MODEL_SERVER_NUM_THREADS": str(spec.resources.num_threads),
        "SKYSAIL_MODEL_SERVER_MEMORY_LIMIT_MIB": str(spec.resources.memory_mib),
        **({"SKYSAIL_MODEL_SERVER_GPUS": f"{gpus:g}"} if gpus else {}),
        "SKYSAIL_MODEL_SERVER_STUCK_AFTER_S": f"{spec.stuck_after_s:g}",
        "SKYSAIL_MODEL_SERVER_CHECK_HEALTH_S": f"{spec.check_health_s:g}",
        "SKYSAIL_MODEL_SERVER_WARM_UP": str(spec.warm_up.is_on).lower(),
        "SKYSAIL_MODEL_SERVER_WARM_UP_S": f"{budget_s:g}",
        "SKYSAIL_MODEL_SERVER_WARM_UP_MAX_ROWS": str(spec.warm_up.max_rows),
        "SKYSAIL_MODEL_SERVER_LOG_FORMAT": spec.log_format,
    }
