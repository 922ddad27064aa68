"""Pods for one task: to install packages into the volume, or to print the Python of an image."""

import math
from collections.abc import Mapping

from skysail_common import __version__
from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.labels import INSTALLER, LABEL, PROBE, labels
from skysail_management.containers.kubernetes.manifests import (
    CONTAINER_SECURITY,
    PACKAGES,
    POD_SECURITY,
    placement,
    variables,
)
from skysail_management.settings import ManagementSettings

INSTALLER_GATE = f"{LABEL}variables"
"""Scheduling gate of the installer, which waits for its Secret."""


def installer_secret(name: str, content: Mapping[str, str], cluster: str) -> Object:
    """Return the Secret of the installer with this name.

    Args:
        name: Its name.
        content: Variables: the indexes of pip, which may contain a password, and the packages.
        cluster: Name of the cluster.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": labels(cluster, INSTALLER)},
        "stringData": dict(content),
    }


def installer(
    name: str, arguments: list[str], settings: ManagementSettings, image: str = ""
) -> Object:
    """Return the pod that installs packages into the volume, or removes some from it.

    The pod waits at a gate until its Secret, which it owns, exists.

    Args:
        name: Its name.
        arguments: Arguments of `python -m skysail_model_server.installer`.
        settings: Where it runs.
        image: Its image; the image of the settings if empty.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": labels(settings.cluster, INSTALLER),
            "annotations": {f"{LABEL}skysail-version": __version__},
        },
        "spec": {
            "schedulingGates": [{"name": INSTALLER_GATE}],
            "restartPolicy": "Never",
            "serviceAccountName": settings.kubernetes_service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            "terminationGracePeriodSeconds": 1,
            "activeDeadlineSeconds": math.ceil(settings.prepare_timeout_s),
            "containers": [
                {
                    "name": INSTALLER,
                    "image": image or settings.kubernetes_image,
                    "command": ["python", "-m", "skysail_model_server.installer", *arguments],
                    "envFrom": [{"secretRef": {"name": name}}],
                    "env": variables({"HOME": "/tmp", "PYTHONUNBUFFERED": "1"}),
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": [
                        {"name": "packages", "mountPath": PACKAGES},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [
                {
                    "name": "packages",
                    "persistentVolumeClaim": {"claimName": settings.kubernetes_packages_claim},
                },
                {"name": "tmp", "emptyDir": {}},
            ],
            **placement(settings),
        },
    }


def probe(name: str, image: str, settings: ManagementSettings) -> Object:
    """Return the pod that prints the Python of an image of the model server.

    Args:
        name: Its name.
        image: The image.
        settings: Where it runs.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels(settings.cluster, PROBE)},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": settings.kubernetes_service_account,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            "terminationGracePeriodSeconds": 1,
            "activeDeadlineSeconds": 60,
            "containers": [
                {
                    "name": PROBE,
                    "image": image,
                    "command": [
                        "python",
                        "-c",
                        "import platform; print(platform.python_version())",
                    ],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "16Mi"},
                        "limits": {"cpu": "500m", "memory": "64Mi"},
                    },
                    "securityContext": CONTAINER_SECURITY,
                }
            ],
            **placement(settings),
        },
    }
