"""Specifications of containers for the API of Docker, as pure functions."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skysail_common.docker.labels import labels
from skysail_management.containers.base import ReplicaSpec
from skysail_management.containers.gpus import GpuReservation
from skysail_management.containers.replica_launch import GPUS_LABEL, replica_environment
from skysail_management.settings import ManagementSettings

ARTIFACT = "/opt/skysail/artifact"
"""Directory of the artifact in a container."""

BUILD_DIRECTORY = "/build"
"""Directory for the inputs of an installation, which do not become part of the image."""

PORT = 8005
_USER = 65532
_SOCKET_DIRECTORY = "/run/skysail"
_MIB = 1024 * 1024

_ISOLATION = {
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "Init": True,
    # The engine can read this kind of log from its end, and rotates it.
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
}


@dataclass(frozen=True)
class PreparedImage:
    """The image of a version, ready for its containers."""

    name: str
    mounts: Sequence[Mapping[str, Any]] = ()
    """Mounts of the files that the image lacks."""


def container_user() -> int:
    """Return the user of replicas: the user of management, or one without rights if that is root."""
    return os.getuid() or _USER


def replica_config(
    spec: ReplicaSpec,
    image: PreparedImage,
    marks: Mapping[str, str],
    socket_directory: str,
    settings: ManagementSettings,
) -> dict[str, Any]:
    """Return the configuration of a replica.

    Args:
        spec: The replica.
        image: The image of its version.
        marks: Its labels.
        socket_directory: Directory of this machine for its unix socket; unused with a network.
        settings: Limits and networks.
    """
    user = container_user()
    memory_mib = spec.resources.memory_mib or settings.docker_memory_mib
    scratch = f"rw,nosuid,nodev,size={settings.docker_scratch_mib}m"
    address = f"0.0.0.0:{PORT}" if settings.docker_network else f"unix:{_SOCKET_DIRECTORY}/s"
    environment = {
        **settings.transport_variable(),
        **replica_environment(spec, address, settings.docker_gpus),
        "SKYSAIL_MODEL_SERVER_ARTIFACT_SHA256": spec.version.artifact_sha256,
    }
    socket = {"Type": "bind", "Source": socket_directory, "Target": _SOCKET_DIRECTORY}
    host: dict[str, Any] = {
        **_ISOLATION,
        "ReadonlyRootfs": True,
        "Tmpfs": {"/tmp": f"{scratch},mode=1777", "/work": f"{scratch},uid={user},mode=700"},
        "Binds": list(settings.docker_volumes),
        "Mounts": [*([] if settings.docker_network else [socket]), *image.mounts],
        "NetworkMode": replica_network(settings),
        "PidsLimit": settings.docker_max_processes,
        # A swap limit equal to the memory limit leaves no swap.
        "Memory": memory_mib * _MIB,
        "MemorySwap": memory_mib * _MIB,
        "NanoCpus": int((spec.resources.cpus or settings.docker_cpus) * 1e9),
    }
    devices = GpuReservation.from_label(marks.get(GPUS_LABEL, "")).devices
    if devices:
        host["DeviceRequests"] = [{"DeviceIDs": list(devices), "Capabilities": [["gpu"]]}]
    elif gpus := int(spec.resources.gpus) or settings.docker_gpus:
        host["DeviceRequests"] = [{"Count": gpus, "Capabilities": [["gpu"]]}]
    return {
        "Image": image.name,
        "User": f"{user}:{user}",
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "Labels": labels(marks),
        # Management watches the health itself.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }


def replica_network(settings: ManagementSettings) -> str:
    """Return the network of replicas."""
    return settings.docker_network or ("bridge" if settings.docker_internet else "none")


def install_config(image: str, settings: ManagementSettings) -> dict[str, Any]:
    """Return the configuration of an installation, which runs the script of the build directory."""
    return {
        "Image": image,
        # Root owns the packages, so that a replica cannot change them.
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
    """Return the configuration of an image: its base, with further labels and variables."""
    return {
        **base,
        "Env": [*(base["Env"] or []), *environment],
        "Labels": {**(base["Labels"] or {}), **labels(marks)},
    }
