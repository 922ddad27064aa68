"""The record in a data directory of the cluster on Kubernetes that was started last."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.settings import KUBERNETES_RECORD


@dataclass(frozen=True)
class ClusterRecord:
    """The cluster that `skysail up` started, so that `skysail down` removes only that one."""

    options: KubernetesOptions
    """Options of the start, with the context that was current then."""
    server: str
    """Address of the Kubernetes API server."""
    anchor_uid: str
    """Identity of the cluster; a new cluster of the same name has another one."""

    @property
    def where(self) -> str:
        """The cluster, its namespace and its Kubernetes cluster, for people."""
        return f"cluster {self.options.cluster!r} in {self.options.where(self.server)}"

    @property
    def down_command(self) -> str:
        """The command that removes the cluster without this record."""
        options = self.options
        words = ["skysail down --container-manager kubernetes --namespace", options.namespace]
        words += ["--cluster", options.cluster] if options.cluster != "default" else []
        words += ["--context", options.context] if options.context else []
        words += ["--kubernetes-proxy-addr", options.proxy_addr] if options.proxy_addr else []
        return " ".join(words)

    def write(self, data_dir: Path) -> None:
        """Write the record to a data directory, in place of any other."""
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = data_dir / f"{KUBERNETES_RECORD}.new"
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(data_dir / KUBERNETES_RECORD)

    @classmethod
    def read(cls, data_dir: Path) -> "ClusterRecord | None":
        """Return the record of a data directory; None if it has none."""
        try:
            found = json.loads((data_dir / KUBERNETES_RECORD).read_text())
            options = KubernetesOptions(**found["options"])
            return cls(options, str(found["server"]), str(found["anchor_uid"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def remove_record(data_dir: Path) -> None:
    """Remove the record of a data directory, if it has one."""
    (data_dir / KUBERNETES_RECORD).unlink(missing_ok=True)
