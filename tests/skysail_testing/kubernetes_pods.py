"""Specifications of replicas and JSON of pods for the unit tests of Kubernetes."""

import copy
from pathlib import Path
from typing import Any

from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.kubernetes.kinds import Object
from skysail_common.resources import Resources
from skysail_management.containers.base import ReplicaSpec, VersionSpec
from skysail_management.containers.kubernetes import manifests
from skysail_management.settings import ManagementSettings
from skysail_testing.keywords import take_resources

VERSION = ModelVersion("m", "1")
SHA256 = "ab" * 32
TOKEN = "the-token"


def settings(**values: Any) -> ManagementSettings:
    """Return settings of management for a cluster on Kubernetes."""
    return ManagementSettings(**{"data_dir": Path("/d"), "cluster": "c", **values})


def version_spec(version: ModelVersion = VERSION, **values: Any) -> VersionSpec:
    return VersionSpec(**{
        "model_version": version, "artifact_sha256": SHA256, "python_version": "3.11.2", **values
    })  # fmt: skip


def replica_spec(version: VersionSpec | None = None, index: int = 0, **values: Any) -> ReplicaSpec:
    version = version or version_spec()
    resources = take_resources(values, Resources(num_threads=2))
    return ReplicaSpec(**{
        "replica_id": ReplicaId(version.model_version, index), "version": version,
        "management_endpoint": "management:8006", "token": TOKEN, "resources": resources, **values,
    })  # fmt: skip


def pod_json(index: int | None = 0, **status: Any) -> Object:
    """Return the pod of a replica, or a gated pod if `index` is None.

    `status` overrides fields of the status of a running, ready pod.
    """
    manifest = manifests.deployment(replica_spec(memory_mib=300), settings())
    template = copy.deepcopy(manifest["spec"]["template"])
    name = f"{manifest['metadata']['name']}-65f9d7c4b8-x2x4z"
    metadata: Object = {
        **template["metadata"],
        "name": name,
        "namespace": "skysail",
        "uid": "4e9f2a60-6e8f-4a52-9a4a-0c9e2a1b7f11",
        "resourceVersion": "1234",
        "creationTimestamp": "2026-11-20T10:00:00Z",
        "ownerReferences": [
            {
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name.rpartition("-")[0],
                "uid": "0c9e2a1b", "controller": True, "blockOwnerDeletion": True,
            }
        ],
    }  # fmt: skip
    pod: Object = {
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"],
    }  # fmt: skip
    if index is None:
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
        return {**pod, "status": {"phase": "Pending", "conditions": [gated], **status}}
    del pod["spec"]["schedulingGates"]
    metadata["labels"][manifests.GATE] = str(index)
    metadata["annotations"][manifests.STARTED_AT] = "2026-11-20T10:00:01.250000+00:00"
    metadata["annotations"][manifests.DELETION_COST] = "1"
    pod["spec"]["nodeName"] = "node-1"
    pod["status"] = {
        "phase": "Running",
        "conditions": conditions(),
        "podIP": "10.42.0.7",
        "initContainerStatuses": [container("artifact", terminated=ended(0, "Completed"))],
        "containerStatuses": [
            container("model-server", running={"startedAt": "2026-11-20T10:00:04Z"})
        ],
        **status,
    }
    return pod


def conditions(is_ready: bool = True, **others: Object) -> list[Object]:
    """Return the conditions of a scheduled pod."""
    state = "True" if is_ready else "False"
    return [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Initialized", "status": "True"},
        {"type": "ContainersReady", "status": state},
        {"type": "Ready", "status": state},
        *({"type": kind, **content} for kind, content in others.items()),
    ]


def container(name: str, *, last: Object | None = None, **state: Object) -> Object:
    """Return the status of one container of a pod."""
    return {
        "name": name,
        "image": "registry.example/skysail-model-server:0.1.0",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0 if last is None else 1,
        "state": state,
        "lastState": {"terminated": last} if last else {},
    }


def ended(status: int, reason: str = "Error", **content: str) -> Object:
    """Return the terminated state of a container."""
    return {
        "exitCode": status, "reason": reason, "startedAt": "2026-11-20T10:00:04Z",
        "finishedAt": "2026-11-20T10:00:09Z", "containerID": "containerd://f00", **content,
    }  # fmt: skip
