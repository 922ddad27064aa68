"""The object that owns a Skysail cluster on Kubernetes, except claims and Secrets, which hold data."""

import hashlib
import re

from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.labels import labels

_TAKEN = re.compile(r"^settings(-|$)|-packages-")
"""Cluster names that would collide with other ConfigMaps: settings, and records of packages."""


def anchor_name(cluster: str) -> str:
    """Return the name of the anchor of a cluster, which is unique to the cluster."""
    slug = re.sub(r"[^a-z0-9]+", "-", cluster.lower()).strip("-")
    # Kubernetes allows fewer characters than Skysail, so that `A_b` and `a-b` share a slug.
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
            "about": "This object owns all objects of a Skysail cluster except claims and Secrets; "
            "its deletion deletes them."
        },
    }


def owned_by(owner: Object, manifest: Object) -> Object:
    """Return a manifest whose object Kubernetes deletes with its owner."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        # A foreground deletion of the owner waits for this object.
        "blockOwnerDeletion": True,
    }
    metadata = {**manifest["metadata"], "ownerReferences": [reference]}
    return {**manifest, "metadata": metadata}
