"""Turns an overlay of k8s/ into the objects of one cluster, by `kubectl kustomize`.

It runs on this machine and asks no cluster. What differs from cluster to cluster (namespace, names,
images) is a kustomization around the overlay.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from skysail.supervisor.kubernetes.files import manifests_directory
from skysail.supervisor.kubernetes.options import KubernetesOptions
from skysail_common import __version__
from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.kubernetes_kinds import Object, kind_of
from skysail_common.kubernetes_labels import CLUSTER

IMAGES = ("management", "frontend", "model-server", "store")
OVERLAYS = ("local", "production")

_TIMEOUT_S = 60
_FIRST = (
    "Namespace", "ServiceAccount", "Secret", "ConfigMap", "Lease", "Role", "RoleBinding",
    "PersistentVolume", "PersistentVolumeClaim", "NetworkPolicy", "Service",
)  # fmt: skip
"""Kinds that others need, in their order."""


def objects_of(options: KubernetesOptions) -> list[Object]:
    """Return the objects of a cluster in the order in which they are made.

    Raises:
        InvalidInput: there is no such overlay, or kustomize refuses it; says why.
        FailedPrecondition: kubectl is not installed.
    """
    overlay = _overlay_directory(options.overlay)
    with tempfile.TemporaryDirectory(prefix="skysail-kustomize-") as directory:
        # Roots must be relative to the file, which links of the way there would mislead.
        base = Path(directory).resolve()
        names = manifests_directory().resolve() / "components" / "local-volumes" / "names.yaml"
        text = json.dumps(
            kustomization(options, os.path.relpath(overlay, base), os.path.relpath(names, base))
        )
        (base / "kustomization.yaml").write_text(text)
        rendered = _kustomize(base)
    found: Iterable[Object] = (each for each in yaml.safe_load_all(rendered) if each)
    return sorted(found, key=_rank)


def kustomization(options: KubernetesOptions, overlay: str, names: str) -> Object:
    """Return the kustomization around an overlay.

    Args:
        options: The cluster.
        overlay: Directory of the overlay, relative to the kustomization.
        names: File with the replacements for volumes of a node, likewise.
    """
    registry = f"{options.image_registry.rstrip('/')}/" if options.image_registry else ""
    images = [
        {"name": f"skysail-{each}", "newName": f"{registry}skysail-{each}", "newTag": __version__}
        for each in IMAGES
    ]
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "skysail-settings"},
        "data": {"SKYSAIL_MANAGEMENT_CLUSTER": options.cluster},
    }
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [overlay],
        "namespace": options.namespace,
        **({"nameSuffix": options.suffix} if options.suffix else {}),
        "labels": [
            {
                "pairs": {CLUSTER: options.cluster},
                "includeSelectors": True,
                "includeTemplates": True,
            }
        ],
        "images": images,
        "replacements": [{"path": names}],
        "patches": [
            {
                "target": {"kind": "ConfigMap", "name": "skysail-settings"},
                "patch": json.dumps(settings),
            }
        ],
    }


def _overlay_directory(name: str) -> Path:
    directory = manifests_directory() / "overlays" / name if name in OVERLAYS else Path(name)
    if not (directory / "kustomization.yaml").is_file():
        raise InvalidInput(
            f"{name!r} is no overlay: {', '.join(OVERLAYS)}, or a directory with a kustomization.yaml"
        )
    return directory.resolve()


def _kustomize(directory: Path) -> str:
    try:
        done = subprocess.run(
            ["kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone", str(directory)],
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise FailedPrecondition(
            "kubectl is not installed; it makes the manifests of a cluster on Kubernetes"
        ) from None
    if done.returncode != 0:
        raise InvalidInput(f"kustomize refuses the overlay: {done.stderr.strip()}")
    return done.stdout


def _rank(manifest: Object) -> int:
    kind = kind_of(manifest).kind
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)
