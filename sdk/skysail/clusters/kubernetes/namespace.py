"""The namespace of a cluster on Kubernetes, which may be made for it and then goes with it."""

from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotAllowed, NotInCluster
from skysail_common.kubernetes.kinds import NAMESPACE
from skysail_common.kubernetes.labels import LABEL

CREATED_BY_SKYSAIL = f"{LABEL}made-by"
"""Annotation of a namespace that goes with the last cluster in it."""


async def ensure_namespace(api: KubernetesApi) -> bool:
    """Make the namespace of a client, unless it exists; True if it was made.

    Raises:
        ContainerManagerUnavailable: Kubernetes does not answer.
    """
    try:
        await api.get(NAMESPACE, api.namespace)
    except NotInCluster:
        metadata = {"name": api.namespace, "annotations": {CREATED_BY_SKYSAIL: "skysail"}}
        await api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        return True
    except NotAllowed:
        # A role for one namespace may not allow to read the namespace itself.
        return False
    return False
