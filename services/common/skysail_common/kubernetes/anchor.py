"""The object that owns all others of a cluster on Kubernetes, but its claims and Secrets, which hold data."""

import hashlib
import re

from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.labels import labels

_TAKEN = re.compile(r"^settings(-|$)|-packages-")
"""Clusters whose plain names are those of other ConfigMaps: settings, and notes of packages."""


def anchor_name(cluster: str) -> str:
    """Return the name of the anchor of a cluster; no two clusters have the same."""
    slug = re.sub(r"[^a-z0-9]+", "-", cluster.lower()).strip("-")
    # Kubernetes allows fewer characters than Skysail, so that `A_b` and `a-b` have one slug.
    if slug == cluster and not _TAKEN.search(cluster):
        return f"skysail-{cluster}"
    return f"skysail-{slug}-{hashlib.sha256(cluster.encode()).hexdigest()[:8]}"


def anchor_manifest(cluster: str) -> Object:
    """Return the anchor of a cluster: a ConfigMap, which every role of operators may create."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": anchor_name(cluster), "labels": labels(cluster)},
        "data": {
            "about": "What belongs to this object goes with it: all of a Skysail cluster "
            "but its claims and Secrets."
        },
    }


def owned_by(owner: Object, manifest: Object) -> Object:
    """Return a manifest of what goes when its owner goes."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        # A deletion in the foreground waits for it.
        "blockOwnerDeletion": True,
    }
    metadata = {**manifest["metadata"], "ownerReferences": [reference]}
    return {**manifest, "metadata": metadata}
