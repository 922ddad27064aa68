"""Rendering of an overlay of k8s/ to the objects of one cluster, by `kubectl kustomize`.

The command runs on this machine and calls no cluster. A kustomization around the overlay sets the
values of the cluster: namespace, names and images.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from skysail.clusters.kubernetes.manifest_files import manifests_directory
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.kubernetes.kinds import Object, kind_of
from skysail_common.kubernetes.labels import CLUSTER, LABEL

IMAGES = ("management", "frontend", "model-server", "store")
OVERLAYS = ("local", "production")

SETTINGS = f"{LABEL}settings"
"""Annotation of pods with a hash of the ConfigMaps of their variables."""

_TIMEOUT_S = 60
_FIRST = (
    "Namespace", "ServiceAccount", "Secret", "ConfigMap", "Lease", "Role", "RoleBinding",
    "PersistentVolume", "PersistentVolumeClaim", "NetworkPolicy", "Service",
)  # fmt: skip
"""Kinds that other objects depend on, in the order of their creation."""


def cluster_objects(options: KubernetesOptions) -> list[Object]:
    """Return the objects of a cluster in the order of their creation.

    Raises:
        InvalidInput: the overlay does not exist, or kustomize refuses it.
        FailedPrecondition: kubectl is not installed.
    """
    overlay = _overlay_directory(options.overlay)
    with tempfile.TemporaryDirectory(prefix="skysail-kustomize-") as directory:
        # kustomize resolves relative paths from the real directory, so that links must be resolved.
        base = Path(directory).resolve()
        names = manifests_directory().resolve() / "components" / "local-volumes" / "names.yaml"
        text = json.dumps(
            kustomization(options, os.path.relpath(overlay, base), os.path.relpath(names, base))
        )
        (base / "kustomization.yaml").write_text(text)
        rendered = _kustomize(base)
    found = [each for each in yaml.safe_load_all(rendered) if each]
    if options.image_registry:
        _check_registry(found, options.image_registry.rstrip("/"))
    return sorted(with_settings_hash(found), key=_rank)


def _check_registry(objects: Iterable[Object], registry: str) -> None:
    """Check that every image of Skysail is from the registry; an overlay may name others."""
    images = {
        str(container.get("image", ""))
        for each in objects
        for container in _containers(each.get("spec", {}).get("template", {}).get("spec", {}))
    }
    others = sorted(
        image
        for image in images
        if image.rpartition("/")[2].startswith("skysail-") and not image.startswith(f"{registry}/")
    )
    if others:
        raise InvalidInput(
            f"cannot use --image-registry {registry}: it contradicts the overlay, which names "
            f"{', '.join(others)}; remove one of the two"
        )


def _containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]


def with_settings_hash(objects: Iterable[Object]) -> list[Object]:
    """Return the objects with a hash of ConfigMaps, so that a changed ConfigMap replaces their pods.

    Pods read variables only at their start. A hash in an annotation of their template changes with the
    ConfigMap, so that Kubernetes rolls out new pods.
    """
    every = list(objects)
    content = {
        each["metadata"]["name"]: each.get("data", {})
        for each in every
        if kind_of(each).kind == "ConfigMap"
    }
    return [_with_hash(each, content) for each in every]


def _with_hash(manifest: Object, content: Mapping[str, Object]) -> Object:
    spec = manifest.get("spec", {})
    template = spec.get("template")
    # A Job runs once, and its template is immutable.
    if not isinstance(template, dict) or "spec" not in template or manifest["kind"] == "Job":
        return manifest
    read = {
        name: content[name] for name in sorted(_config_maps(template["spec"])) if name in content
    }
    if not read:
        return manifest
    digest = hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]
    metadata = template.get("metadata", {})
    notes = {**metadata.get("annotations", {}), SETTINGS: digest}
    template = {**template, "metadata": {**metadata, "annotations": notes}}
    return {**manifest, "spec": {**spec, "template": template}}


def _config_maps(pod: Object) -> set[str]:
    """Return the names of the ConfigMaps that containers read variables from."""
    found = set()
    for container in _containers(pod):
        sources = [each.get("configMapRef") for each in container.get("envFrom", ())]
        sources += [
            each.get("valueFrom", {}).get("configMapKeyRef") for each in container.get("env", ())
        ]
        found |= {source["name"] for source in sources if source}
    return found


def kustomization(options: KubernetesOptions, overlay: str, names: str) -> Object:
    """Return the kustomization around an overlay.

    Args:
        options: The cluster.
        overlay: Directory of the overlay, relative to the kustomization.
        names: File with the replacements for volumes of a node, relative to it too.
    """
    registry = options.image_registry.rstrip("/")
    # An image without a tag keeps the tag of the overlay.
    images = [
        {"name": f"skysail-{each}", "newName": f"{registry}/skysail-{each}"} for each in IMAGES
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
        **({"images": images} if registry else {}),
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
            f"cannot find the overlay {name!r}; name {', '.join(OVERLAYS)}, or a directory with a "
            "kustomization.yaml"
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
            "cannot render the overlay: kubectl is not installed; install it"
        ) from None
    if done.returncode != 0:
        raise InvalidInput(f"cannot render the overlay: {done.stderr.strip()}")
    return done.stdout


def _rank(manifest: Object) -> int:
    kind = kind_of(manifest).kind
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST)
