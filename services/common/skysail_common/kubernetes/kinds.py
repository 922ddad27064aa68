"""Kinds of Kubernetes objects, and the API path of each kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Object = dict[str, Any]
"""An object of Kubernetes, as its JSON."""

_CLUSTER_WIDE = frozenset(
    {"ClusterRole", "ClusterRoleBinding", "Namespace", "Node", "PersistentVolume", "StorageClass"}
)


@dataclass(frozen=True)
class Kind:
    """A kind of objects, such as `Kind("apps/v1", "Deployment")`."""

    api_version: str
    kind: str

    @property
    def is_cluster_wide(self) -> bool:
        """True for kinds without a namespace."""
        return self.kind in _CLUSTER_WIDE

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Return the path of one object, or of all objects of the kind."""
        root = "/api" if self.api_version == "v1" else "/apis"
        parts = [root, self.api_version]
        if not self.is_cluster_wide:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self._plural(), *(quote(each, safe="") for each in (name, subresource) if each)]
        return "/".join(parts)

    def _plural(self) -> str:
        name = self.kind.lower()
        if name.endswith("y") and name[-2] not in "aeiou":
            return f"{name[:-1]}ies"
        return f"{name}es" if name.endswith("s") else f"{name}s"


CONFIG_MAP = Kind("v1", "ConfigMap")
DEPLOYMENT = Kind("apps/v1", "Deployment")
DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget")
LEASE = Kind("coordination.k8s.io/v1", "Lease")
NAMESPACE = Kind("v1", "Namespace")
PERSISTENT_VOLUME = Kind("v1", "PersistentVolume")
PERSISTENT_VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim")
POD = Kind("v1", "Pod")
SECRET = Kind("v1", "Secret")
SERVICE = Kind("v1", "Service")
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount")


def kind_of(manifest: Object) -> Kind:
    """Return the kind of a manifest."""
    return Kind(manifest["apiVersion"], manifest["kind"])


def selector(labels: Mapping[str, str]) -> str:
    """Return a label selector; an empty value matches any value."""
    return ",".join(f"{name}={value}" if value else name for name, value in labels.items())
