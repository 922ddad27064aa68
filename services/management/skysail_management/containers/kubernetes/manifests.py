"""Manifests of Kubernetes objects, as pure functions of plain values.

anchor                      a ConfigMap: what is deleted with it is all of the cluster
└─ Deployment          the replicas of a version that are alike, never changed but in number
   ├─ pods             wait at a gate until management has given each its index
   ├─ Secret           the token with which they fetch their artifact, and their environment
   └─ PodDisruptionBudget
"""

import hashlib
import hmac
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace

from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.labels import LABEL, MODEL_SERVER, labels
from skysail_common.process.sockets import join_host_port
from skysail_management.containers.base import ReplicaSpec
from skysail_management.containers.kubernetes.artifact_volumes import artifact_volume
from skysail_management.containers.replica_launch import replica_environment
from skysail_management.settings import ManagementSettings

PORT = 8005
ARTIFACT_CONTAINER, SERVER_CONTAINER = "artifact", "model-server"
PACKAGES = "/packages"
"""Mount point of the volume of packages, with a directory for each environment."""

GATE = f"{LABEL}replica"
"""Scheduling gate of a pod without an index, and the label that holds its index."""

ATTACHED = f"{LABEL}attached"
"""Label of the pods that their Deployment counts; without it a pod only drains."""

GROUP, MODEL, VERSION = f"{LABEL}group", f"{LABEL}model", f"{LABEL}version"
ARTIFACT, STARTED_AT = f"{LABEL}artifact", f"{LABEL}started-at"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

_USER = 65532
ROUTED_AWAY_S = 2
"""Time for frontends to learn that a pod is deleted, before it gets its signal."""
_READY_PERIOD_S = 1
_READY_TIMEOUT_S = 5
_PATH = "/opt/skysail/bin:/usr/local/bin:/usr/bin:/bin"

POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "privileged": False,
    "readOnlyRootFilesystem": True,
}


def deployment(
    spec: ReplicaSpec, settings: ManagementSettings, *, image: str = "", packages: str = ""
) -> Object:
    """Return the Kubernetes Deployment of replicas like this one, with no pods.

    Its name contains a hash of the whole specification, so that an existing Deployment is the right
    one. Its Secret has the same name.

    Args:
        spec: One of the replicas; its index is ignored.
        settings: Limits, and where pods may run.
        image: Image with the artifact and its packages; if empty, an init container and the volume
            provide them.
        packages: Name of the environment in the volume; empty for none.
    """
    # The first replica of a version and later ones share a Deployment, so that the specification
    # ignores what is measured.
    spec = replace(spec, warm_up=replace(spec.warm_up, is_measured=False))
    version = spec.version.model_version
    draft = [_deployment("", spec, settings, image, packages), dict(spec.environment)]
    # The key prevents guesses of environment values, which may be short secrets.
    key, message = spec.token.encode(), json.dumps(draft, sort_keys=True).encode()
    digest = hmac.new(key, message, hashlib.sha256).hexdigest()[:10]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{version.model_name}-{version.version}".lower())
    name = f"skysail-{slug[:40].strip('-')}-{digest}"
    return _deployment(name, spec, settings, image, packages)


def _deployment(
    name: str, spec: ReplicaSpec, settings: ManagementSettings, image: str, packages: str
) -> Object:
    version = spec.version.model_version
    own = {
        **labels(settings.cluster, MODEL_SERVER),
        MODEL: version.model_name,
        VERSION: version.version,
        GROUP: name,
    }
    notes = {ARTIFACT: spec.version.artifact_sha256}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": own, "annotations": notes},
        "spec": {
            "replicas": 0,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": _attached_labels(name)},
            "template": {
                "metadata": {
                    "labels": {**own, ATTACHED: "true"},
                    "annotations": {**notes, DELETION_COST: "-1"},
                },
                "spec": _pod(spec, settings, name, image, packages),
            },
        },
    }


def _attached_labels(name: str) -> dict[str, str]:
    return {GROUP: name, ATTACHED: "true"}


def replica_secret(name: str, spec: ReplicaSpec, cluster: str) -> Object:
    """Return the Secret of the replicas of a Kubernetes Deployment: their token and environment."""
    values = (spec.environment[name] for name in _secret_keys(spec))
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels(cluster, MODEL_SERVER)},
        "stringData": {
            "token": spec.token,
            **dict(zip(_secret_keys(spec).values(), values, strict=True)),
        },
    }


def _secret_keys(spec: ReplicaSpec) -> dict[str, str]:
    """Return the key in the Secret of each variable, whose name may be no valid key."""
    return {name: f"environment-{index}" for index, name in enumerate(sorted(spec.environment))}


def disruption_budget(name: str, cluster: str) -> Object:
    """Return the budget that lets a drain of nodes evict one replica at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "labels": labels(cluster, MODEL_SERVER)},
        "spec": {
            "maxUnavailable": 1,
            # A replica that never becomes ready must not block a drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": _attached_labels(name)},
        },
    }


def _pod(
    spec: ReplicaSpec, settings: ManagementSettings, secret: str, image: str, packages: str
) -> Object:
    version = spec.version.model_version
    volumes: list[Object] = [
        {"name": name, "emptyDir": {"sizeLimit": f"{settings.kubernetes_scratch_mib}Mi"}}
        for name in ("tmp", "work")
    ]
    if not image:
        volumes.append(artifact_volume(settings).volume)
    if packages:
        claim = {"claimName": settings.kubernetes_packages_claim, "readOnly": True}
        volumes.append({"name": "packages", "persistentVolumeClaim": claim})
    pod: Object = {
        "schedulingGates": [{"name": GATE}],
        "serviceAccountName": settings.kubernetes_service_account,
        "automountServiceAccountToken": False,
        # A replica does not use the variables that name every service of the namespace.
        "enableServiceLinks": False,
        # The pause container reaps orphaned processes.
        "shareProcessNamespace": True,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": ROUTED_AWAY_S + math.ceil(settings.drain_timeout_s),
        "containers": [_server(spec, settings, secret, image, packages)],
        "volumes": volumes,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {
                    "matchLabels": {MODEL: version.model_name, VERSION: version.version}
                },
            }
        ],
        **placement(settings),
    }
    if not image:
        pod["initContainers"] = [_artifact(spec, settings, secret)]
    return pod


def _server(
    spec: ReplicaSpec, settings: ManagementSettings, secret: str, image: str, packages: str
) -> Object:
    environment = {
        **settings.transport_variable(),
        **replica_environment(
            spec,
            join_host_port("::" if ":" in settings.host else "0.0.0.0", PORT),
            settings.kubernetes_gpus,
        ),
        "SKYSAIL_MODEL_SERVER_ARTIFACT_SHA256": spec.version.artifact_sha256,
        "SKYSAIL_MODEL_SERVER_WORK_DIR": "/work",
    }
    share: tuple[Object, ...] = ()
    mounts: list[Object] = [{"name": name, "mountPath": f"/{name}"} for name in ("tmp", "work")]
    if not image:
        server = artifact_volume(settings).server
        share = server.variables
        mounts.append(server.mount)
    if packages:
        environment["PATH"] = f"{PACKAGES}/{packages}/bin:{_PATH}"
        where = {"mountPath": f"{PACKAGES}/{packages}", "subPath": packages, "readOnly": True}
        mounts.append({"name": "packages", **where})
    return {
        "name": SERVER_CONTAINER,
        "image": image or settings.kubernetes_image,
        "env": [*_identity(spec), *share, *_with_secrets(environment, spec, secret)],
        "ports": [{"name": "grpc", "containerPort": PORT}],
        "resources": _resources(spec, settings),
        # A ready replica takes batches: it loaded its model and answered the warm-up query.
        # Frontends avoid a replica that stops answering, and management replaces it after its start
        # timeout.
        "readinessProbe": {
            "grpc": {"port": PORT},
            "periodSeconds": _READY_PERIOD_S,
            "timeoutSeconds": _READY_TIMEOUT_S,
            "failureThreshold": 3,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(ROUTED_AWAY_S)]}}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
        "terminationMessagePolicy": "File",
    }


def _identity(spec: ReplicaSpec) -> list[Object]:
    field = {"fieldPath": f"metadata.labels['{GATE}']"}
    return [
        {"name": "SKYSAIL_REPLICA_INDEX", "valueFrom": {"fieldRef": field}},
        {
            "name": "SKYSAIL_MODEL_SERVER_REPLICA_ID",
            "value": f"{spec.version.model_version}/$(SKYSAIL_REPLICA_INDEX)",
        },
    ]


def _with_secrets(environment: Mapping[str, str], spec: ReplicaSpec, secret: str) -> list[Object]:
    """Return variables, with references for those of operators, which pods must not show."""
    keys = _secret_keys(spec)
    return [
        {"name": each["name"], "valueFrom": _secret_value(secret, keys[each["name"]])}
        if environment[each["name"]] == spec.environment.get(each["name"])
        else each
        for each in variables(environment)
    ]


def _secret_value(secret: str, key: str) -> Object:
    return {"secretKeyRef": {"name": secret, "key": key}}


def variables(environment: Mapping[str, str]) -> list[Object]:
    """Return environment variables in the form of a container, by name."""
    return [
        # A dollar sign would begin a reference to another variable.
        {"name": name, "value": value.replace("$", "$$")}
        for name, value in sorted(environment.items())
        if name != "SKYSAIL_MODEL_SERVER_REPLICA_ID"
    ]


def _resources(spec: ReplicaSpec, settings: ManagementSettings) -> Object:
    limits: dict[str, str] = {}
    if cpus := spec.resources.cpus or settings.kubernetes_cpus:
        limits["cpu"] = f"{math.ceil(cpus * 1000)}m"
    if memory_mib := spec.resources.memory_mib or settings.kubernetes_memory_mib:
        limits["memory"] = f"{memory_mib}Mi"
    if gpus := spec.resources.gpus or settings.kubernetes_gpus:
        limits[settings.kubernetes_gpu_resource] = str(int(gpus))
    return {"limits": limits, "requests": dict(limits)} if limits else {}


def _artifact(spec: ReplicaSpec, settings: ManagementSettings, secret: str) -> Object:
    share = artifact_volume(settings).fetcher
    environment = {
        "PYTHONUNBUFFERED": "1",
        "SKYSAIL_MODEL_SERVER_ARTIFACT_SHA256": spec.version.artifact_sha256,
        "SKYSAIL_MODEL_SERVER_LOG_FORMAT": spec.log_format,
        "SKYSAIL_MODEL_SERVER_MANAGEMENT_ENDPOINT": spec.management_endpoint,
    }
    return {
        "name": ARTIFACT_CONTAINER,
        "image": settings.kubernetes_image,
        "command": ["python", "-m", "skysail_model_server.fetch"],
        "env": [
            *_identity(spec),
            *share.variables,
            *variables(environment),
            {"name": "SKYSAIL_MODEL_SERVER_TOKEN", "valueFrom": _secret_value(secret, "token")},
        ],
        "resources": {
            "limits": {"cpu": "1", "memory": "256Mi"},
            "requests": {"cpu": "10m", "memory": "64Mi"},
        },
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [share.mount],
    }


def mounted_packages(pod: Object) -> str:
    """Return the name of the environment that a pod of a replica mounts; empty for none."""
    for container in pod["spec"]["containers"]:
        for mount in container.get("volumeMounts", ()):
            if mount["name"] == "packages":
                return str(mount["subPath"])
    return ""


def placement(settings: ManagementSettings) -> Object:
    """Return the placement of pods by these settings, as part of their specification."""
    placement: Object = {}
    if settings.kubernetes_node_selector:
        placement["nodeSelector"] = dict(settings.kubernetes_node_selector)
    if settings.kubernetes_tolerations:
        placement["tolerations"] = [dict(each) for each in settings.kubernetes_tolerations]
    return placement
