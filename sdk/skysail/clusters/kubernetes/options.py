"""Options of a cluster on Kubernetes: its identity, its API server, its manifests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skysail.settings import ClientSettings
from skysail_common.errors import InvalidInput
from skysail_common.identifiers import MAX_NAME_LENGTH, check_name

if TYPE_CHECKING:
    from skysail_common.kubernetes.api import KubernetesApi

_MAX_CLUSTER_LENGTH = 38
"""Kubernetes gives the pods of skysail-store-<cluster> a label with that name and a hash."""


@dataclass(frozen=True)
class KubernetesOptions:
    """Which Kubernetes cluster, and where in it."""

    namespace: str = "skysail"
    cluster: str = "default"
    kubeconfig: str = ""
    """Configuration file of the client; ~/.kube/config if empty."""
    context: str = ""
    """Context of the configuration file; its current one if empty."""
    proxy_addr: str = ""
    """Where `kubectl proxy` listens, as host:port; used instead of a file."""
    overlay: str = "local"
    """`local`, `production`, or a directory with another kustomization."""
    image_registry: str = ""
    """Registry, optionally with a path, from which nodes pull the images of Skysail."""

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> "KubernetesOptions":
        """Return the options that the flags of a command give.

        Raises:
            InvalidInput: a name is illegal.
        """
        names = ("namespace", "cluster", "context", "overlay", "image_registry")
        given = {name: flags[name] for name in names if name in flags}
        proxy_addr = flags.get("kubernetes_proxy_addr", "")
        kubeconfig = ClientSettings().kubeconfig
        return cls(kubeconfig=kubeconfig, proxy_addr=proxy_addr, **given).checked()

    def is_same_cluster(self, other: "KubernetesOptions") -> bool:
        """Return whether both name the same cluster, as far as a context tells."""
        names = ("namespace", "cluster", "context")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def checked(self) -> "KubernetesOptions":
        """Return these options if their names are legal.

        Raises:
            InvalidInput: a name is illegal; Kubernetes allows fewer names than Skysail.
        """
        for kind, name, longest in (
            ("cluster", self.cluster, _MAX_CLUSTER_LENGTH),
            ("namespace", self.namespace, MAX_NAME_LENGTH),
        ):
            check_name(kind, name)
            if name != name.lower() or "_" in name or "." in name or len(name) > longest:
                raise InvalidInput(
                    f"cannot use {kind} {name!r}: it is not a valid name on Kubernetes; choose 1 to "
                    f"{longest} lower-case letters, digits and '-'"
                )
        return self

    @property
    def suffix(self) -> str:
        """Suffix of the names of this cluster's objects, so that several share a namespace."""
        return "" if self.cluster == "default" else f"-{self.cluster}"

    @property
    def frontend_name(self) -> str:
        """Name of the frontends' Service, as pods of any namespace resolve it."""
        return f"skysail-frontend{self.suffix}.{self.namespace}.svc"

    def where(self, server: str) -> str:
        """Return the namespace and its Kubernetes cluster, for people.

        Args:
            server: Address of the API server.
        """
        place = f"context {self.context!r} ({server})" if self.context else server
        return f"namespace {self.namespace!r} of {place}"

    def api(self) -> "KubernetesApi":
        """Return a client of the Kubernetes cluster."""
        # The import is here because the base install lacks the client of Kubernetes.
        from skysail_common.kubernetes.api import KubernetesApi

        return KubernetesApi(self.kubeconfig, self.context, self.proxy_addr, self.namespace)

    def kubectl(self) -> list[str]:
        """Return the kubectl command with the flags that select this cluster and namespace."""
        command = ["kubectl", "--namespace", self.namespace]
        if self.proxy_addr:
            return [*command, "--server", f"http://{self.proxy_addr}"]
        command += ["--kubeconfig", self.kubeconfig] if self.kubeconfig else []
        command += ["--context", self.context] if self.context else []
        return command
