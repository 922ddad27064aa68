"""Specifications of containers in the form of Docker's API, made without calls."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from skysail_common.docker.labels import labels
from skysail_management.containers.base import ReplicaSpec
from skysail_management.containers.replica_launch import replica_environment
from skysail_management.settings import ManagementSettings

ARTIFACT = "/opt/skysail/artifact.zip"
"""Where the image of a version holds its artifact."""

BUILD_DIRECTORY = "/build"
"""What an installation needs is there; nothing of it becomes part of the image."""

PORT = 8005
_USER = 65532
_SOCKET_DIRECTORY = "/run/skysail"
_MIB = 1024 * 1024

_ISOLATION = {
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "Init": True,
    # The engine reads it from the end, and old ones go.
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
}


def container_user() -> int:
    """Return the user that replicas run as: one without rights, or ours where we are not root."""
    return os.getuid() or _USER


def replica_config(
    spec: ReplicaSpec,
    image: str,
    marks: Mapping[str, str],
    socket_directory: str,
    settings: ManagementSettings,
) -> dict[str, Any]:
    """Return how a replica runs.

    Args:
        spec: The replica.
        image: That of its version.
        marks: Its labels.
        socket_directory: Directory of this machine for its unix socket; unless it has a network.
        settings: Limits and networks.
    """
    user = container_user()
    memory_mib = spec.resources.memory_mib or settings.docker_memory_mib
    scratch = f"rw,nosuid,nodev,size={settings.docker_scratch_mib}m"
    address = f"0.0.0.0:{PORT}" if settings.docker_network else f"unix:{_SOCKET_DIRECTORY}/s"
    environment = {
        **settings.transport_variable(),
        **replica_environment(spec, address),
        "SKYSAIL_MODEL_SERVER_ARTIFACT_FILE": ARTIFACT,
    }
    socket = {"Type": "bind", "Source": socket_directory, "Target": _SOCKET_DIRECTORY}
    host: dict[str, Any] = {
        **_ISOLATION,
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"{scratch},mode=1777", "/work": f"{scratch},uid={user},mode=700"},
        "Binds": list(settings.docker_volumes),
        "Mounts": [] if settings.docker_network else [socket],
        "NetworkMode": replica_network(settings),
        "PidsLimit": settings.docker_max_processes,
        # Memory plus swap equals memory, which leaves no swap.
        "Memory": memory_mib * _MIB,
        "MemorySwap": memory_mib * _MIB,
        "NanoCpus": int((spec.resources.cpus or settings.docker_cpus) * 1e9),
    }
    if gpus := spec.resources.gpus or settings.docker_gpus:
        host["DeviceRequests"] = [{"Count": gpus, "Capabilities": [["gpu"]]}]
    return {
        "Image": image,
        "User": f"{user}:{user}",
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": labels(marks),
        # Management watches over it.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }


def replica_network(settings: ManagementSettings) -> str:
    """Return the network that replicas are on."""
    return settings.docker_network or ("bridge" if settings.docker_internet else "none")


def install_config(image: str, settings: ManagementSettings) -> dict[str, Any]:
    """Return how packages are installed: by the script in the directory of the build."""
    return {
        "Image": image,
        # Owner of what is installed, so that a replica cannot change it.
        "User": "0:0",
        "Entrypoint": ["/bin/sh", f"{BUILD_DIRECTORY}/install"],
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **_ISOLATION,
            "NetworkMode": settings.docker_build_network,
            "Mounts": [{"Type": "volume", "Target": BUILD_DIRECTORY}],
        },
    }


def image_config(
    base: Mapping[str, Any], marks: Mapping[str, str], environment: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the configuration of an image that is like its base, but for labels and variables."""
    return {
        **base,
        "Env": [*(base["Env"] or []), *environment],
        "Labels": {**(base["Labels"] or {}), **labels(marks)},
    }
