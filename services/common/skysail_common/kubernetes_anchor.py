"""The object that owns all others of a cluster on Kubernetes: with it goes everything."""

from skysail_common.kubernetes_kinds import Object
from skysail_common.kubernetes_labels import labels


def anchor_name(cluster: str) -> str:
    """Return the name of the anchor of a cluster."""
    return f"skysail-{cluster.lower().replace('_', '-')}"


def anchor_manifest(cluster: str) -> Object:
    """Return the anchor of a cluster: a ConfigMap, which whoever may do anything there may make."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": anchor_name(cluster), "labels": labels(cluster)},
        "data": {"about": "Everything of this Skysail cluster belongs to this object."},
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
