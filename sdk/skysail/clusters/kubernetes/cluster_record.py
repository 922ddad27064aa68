"""The note in a data directory that names the cluster on Kubernetes which was started from it last."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.settings import KUBERNETES_RECORD


@dataclass(frozen=True)
class ClusterRecord:
    """Which cluster `skysail up` started, so that `skysail down` removes that one and no other."""

    options: KubernetesOptions
    """How it was reached; the context is the one that was current then."""
    server: str
    """Address of the Kubernetes API server."""
    anchor_uid: str
    """Identity of the cluster: a cluster that is made again under the same name has another."""

    @property
    def where(self) -> str:
        """The cluster, its namespace and its Kubernetes, for people."""
        return f"cluster {self.options.cluster!r} in {self.options.where(self.server)}"

    @property
    def down_command(self) -> str:
        """The command that removes the cluster without this note."""
        options = self.options
        words = ["skysail down --container-manager kubernetes --namespace", options.namespace]
        words += ["--cluster", options.cluster] if options.cluster != "default" else []
        words += ["--context", options.context] if options.context else []
        words += ["--kubernetes-proxy-addr", options.proxy_addr] if options.proxy_addr else []
        return " ".join(words)

    def write(self, data_dir: Path) -> None:
        """Put the note in the place of any other in the data directory."""
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = data_dir / f"{KUBERNETES_RECORD}.new"
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(data_dir / KUBERNETES_RECORD)

    @classmethod
    def read(cls, data_dir: Path) -> "ClusterRecord | None":
        """Return the note of a data directory; None if it has none."""
        try:
            found = json.loads((data_dir / KUBERNETES_RECORD).read_text())
            options = KubernetesOptions(**found["options"])
            return cls(options, str(found["server"]), str(found["anchor_uid"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def remove_record(data_dir: Path) -> None:
    """Remove the note of a data directory, if it has one."""
    (data_dir / KUBERNETES_RECORD).unlink(missing_ok=True)
