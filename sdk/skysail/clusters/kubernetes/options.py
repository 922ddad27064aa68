"""Options of a cluster on Kubernetes: its identity, its API server, its manifests."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """File that says how it is reached; ~/.kube/config if empty."""
    context: str = ""
    """Context of that file; its current one if empty."""
    proxy_addr: str = ""
    """Where `kubectl proxy` listens, as host:port; used instead of a file."""
    overlay: str = "local"
    """`local`, `production`, or a directory with a kustomization of one's own."""
    image_registry: str = ""
    """Registry, with a path if need be, that the nodes pull the images of Skysail from."""

    def checked(self) -> "KubernetesOptions":
        """Return these options if their names are legal.

        Raises:
            InvalidInput: one is not; Kubernetes allows fewer names than Skysail.
        """
        for kind, name, longest in (
            ("cluster", self.cluster, _MAX_CLUSTER_LENGTH),
            ("namespace", self.namespace, MAX_NAME_LENGTH),
        ):
            check_name(kind, name)
            if name != name.lower() or "_" in name or "." in name or len(name) > longest:
                raise InvalidInput(
                    f"{kind} {name!r} is no name for Kubernetes: 1 to {longest} lower-case letters, "
                    "digits and '-'"
                )
        return self

    @property
    def suffix(self) -> str:
        """The suffix of the names of this cluster's objects, which lets several share a namespace."""
        return "" if self.cluster == "default" else f"-{self.cluster}"

    @property
    def frontend_name(self) -> str:
        """Name of the frontends' Service, as pods of any namespace know it."""
        return f"skysail-frontend{self.suffix}.{self.namespace}.svc"

    def where(self, server: str) -> str:
        """Return the namespace and its Kubernetes, for people; `server` is the API server's address."""
        place = f"context {self.context!r} ({server})" if self.context else server
        return f"namespace {self.namespace!r} of {place}"

    def api(self) -> "KubernetesApi":
        """Return a client of the Kubernetes cluster."""
        # Only here, because the client of Kubernetes is no part of the base install.
        from skysail_common.kubernetes.api import KubernetesApi

        return KubernetesApi(self.kubeconfig, self.context, self.proxy_addr, self.namespace)

    def kubectl(self) -> list[str]:
        """Return kubectl with the flags by which it reaches the same cluster and namespace."""
        command = ["kubectl", "--namespace", self.namespace]
        if self.proxy_addr:
            return [*command, "--server", f"http://{self.proxy_addr}"]
        command += ["--kubeconfig", self.kubeconfig] if self.kubeconfig else []
        command += ["--context", self.context] if self.context else []
        return command
