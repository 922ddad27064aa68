"""Settings of clients: how they find a cluster, and the directory of a local one."""

import json
import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from skysail_common.errors import FailedPrecondition

CLUSTER_FILE = "cluster.json"
"""File in the data directory that says how a running local cluster is reached."""

KUBERNETES_RECORD = "cluster.kubernetes"
"""File in the data directory that says which Kubernetes cluster `skysail up` used, and what there."""

DOCKER_RECORD = "cluster.docker"
"""File in the data directory that names the Docker engine while it may have containers of services."""

DEFAULT_ENDPOINT = "127.0.0.1:8003"


def _default_data_dir() -> Path | None:
    base = os.environ.get("XDG_DATA_HOME")
    try:
        return Path(base or Path.home() / ".local" / "share") / "skysail"
    except RuntimeError:
        # A user without HOME and without an entry in passwd, as in some containers.
        return None


def absolute(data_dir: Path | None) -> Path:
    """Return a data directory as an absolute path; `~` is the home directory.

    Raises:
        FailedPrecondition: there is none, or no home directory.
    """
    try:
        if data_dir is not None:
            return data_dir.expanduser().absolute()
    except RuntimeError:
        # The same text: both want a home directory.
        pass
    raise FailedPrecondition(
        "cannot find the data directory: this user has no home directory; set SKYSAIL_DATA_DIR, "
        "HOME or --data-dir"
    )


class ClientSettings(BaseSettings):
    """Settings of the SDK and the command line."""

    model_config = SettingsConfigDict(
        env_prefix="SKYSAIL_", frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    endpoint: str = ""
    """Where management is reached, as host:port. If empty, the local cluster in the data
    directory; where none runs there, 127.0.0.1:8003."""

    query_endpoint: str = ""
    """Where a frontend's gRPC services are reached, as host:port. If empty, management is asked for
    one."""

    token: SecretStr = SecretStr("")
    """Token that management asks for; none is shown if empty."""

    management_tls_ca_file: Path | None = None
    """Authorities that management's certificate must be of, in PEM. With it management is called
    over TLS, without it in the clear."""

    tls_ca_file: Path | None = None
    """Authorities that certificates of frontends must be of, in PEM. With it queries go over TLS,
    without it in the clear."""

    tls_certificate_file: Path | None = None
    """Certificate to show to frontends that ask for one (mutual TLS), in PEM."""

    tls_key_file: Path | None = None
    """Key of that certificate, in PEM."""

    tls_server_name: str = ""
    """Name that the certificates of frontends must have, where it is not the host that is dialled, such
    as behind forwarded ports. If empty, that host, or what `skysail forward` notes."""

    data_dir: Path | None = Field(default_factory=_default_data_dir)
    """Data directory of the local cluster."""

    redis_url: str = ""
    """Server that speaks the Redis protocol, for `skysail up`; its own embedded one if empty."""

    kubeconfig: str = Field(default="", validation_alias="KUBECONFIG")
    """File that says how Kubernetes is reached; ~/.kube/config if empty."""

    def find_data_dir(self) -> Path:
        """Return the data directory of the local cluster, an absolute path.

        Raises:
            FailedPrecondition: none is set, and the user has no home directory.
        """
        return absolute(self.data_dir)

    def find_endpoint(self) -> str:
        """Return where management is reached."""
        return self.endpoint or self.noted("socket") or self.noted("management") or DEFAULT_ENDPOINT

    def noted(self, name: str) -> str:
        """Return a noted endpoint of the cluster of the data directory; empty if it is not noted.

        Args:
            name: A field of `ClusterEndpoints`, such as `management` or `grpc`.
        """
        try:
            record = json.loads((self.find_data_dir() / CLUSTER_FILE).read_text())
            return str(record[name])
        except (OSError, ValueError, KeyError, FailedPrecondition):
            return ""

    def supervisor_of(self, endpoint: str) -> int:
        """Return the living process that restarts the management at an endpoint; 0 if none is noted."""
        try:
            record = json.loads((self.find_data_dir() / CLUSTER_FILE).read_text())
            if endpoint not in (record["management"], record.get("socket", "")):
                return 0
            process = int(record["pid"])
            os.kill(process, 0)
        except PermissionError:
            # It lives, as another user's.
            return process
        except (OSError, ValueError, KeyError, FailedPrecondition):
            return 0
        return process
