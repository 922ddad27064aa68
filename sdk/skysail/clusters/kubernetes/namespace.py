"""The namespace of a cluster on Kubernetes, created and removed with it if necessary."""

from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotAllowed, NotInCluster
from skysail_common.kubernetes.kinds import NAMESPACE
from skysail_common.kubernetes.labels import LABEL

CREATED_BY_SKYSAIL = f"{LABEL}made-by"
"""Annotation of a namespace that is removed with the last cluster in it."""


async def ensure_namespace(api: KubernetesApi) -> bool:
    """Create the namespace of a client if it does not exist; return whether it was created.

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
        # A role within a namespace may not read the namespace itself.
        return False
    return False
