"""Settings of clients: how they find a cluster, and the directory of a local one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from skysail_common.errors import FailedPrecondition
from skysail_common.process.inherited_variables import install_variables

CLUSTER_FILE = "cluster.json"
"""File in the data directory with the endpoints of the running cluster."""

KUBERNETES_RECORD = "cluster.kubernetes"
"""File in the data directory that identifies the cluster on Kubernetes that was started last."""

DOCKER_RECORD = "cluster.docker"
"""File in the data directory that names the Docker engine while it may have containers of services."""

DEFAULT_ENDPOINT = "127.0.0.1:8003"


def _default_data_dir() -> Path | None:
    base = os.environ.get("XDG_DATA_HOME")
    try:
        return Path(base or Path.home() / ".local" / "share") / "skysail"
    except RuntimeError:
        # The user of some containers has neither HOME nor an entry in passwd.
        return None


def cache_directory() -> Path:
    """Return the directory for files of the SDK that can be made again.

    Raises:
        FailedPrecondition: the user has no home directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skysail"
    except RuntimeError as error:
        raise FailedPrecondition(
            "cannot find a directory for caches: this user has no home directory; set XDG_CACHE_HOME"
        ) from error


def check_variables(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a checked model: inherited variables as in a replica, and its own."""
    return {**install_variables(os.environ), **own}


def absolute(data_dir: Path | None) -> Path:
    """Return a data directory as an absolute path; `~` is the home directory.

    Raises:
        FailedPrecondition: neither a data directory nor a home directory is set.
    """
    try:
        if data_dir is not None:
            return data_dir.expanduser().absolute()
    except RuntimeError:
        # `~` needs a home directory, like the default.
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
    """Endpoint of management, as host:port. If empty, the local cluster of the data directory, or
    127.0.0.1:8003 if none runs there."""

    query_endpoint: str = ""
    """Endpoint of the gRPC services of a frontend, as host:port. If empty, management names one."""

    token: SecretStr = SecretStr("")
    """Token for management; if empty, clients send none."""

    management_tls_ca_file: Path | None = None
    """Authorities that sign the certificate of management, in PEM. With it, clients call management
    over TLS, without it in the clear."""

    tls_ca_file: Path | None = None
    """Authorities that sign the certificates of frontends, in PEM. With it, queries go over TLS,
    without it in the clear."""

    tls_certificate_file: Path | None = None
    """Certificate of the client for frontends that require one (mutual TLS), in PEM."""

    tls_key_file: Path | None = None
    """Key of that certificate, in PEM."""

    tls_server_name: str = ""
    """Name in the certificates of frontends if it differs from the host of their endpoint, for example
    behind forwarded ports. If empty, that host, or the name that `skysail forward` records."""

    data_dir: Path | None = Field(default_factory=_default_data_dir)
    """Data directory of the local cluster."""

    redis_url: str = ""
    """Server that speaks the Redis protocol, for `skysail up`; an embedded one if empty."""

    kubeconfig: str = Field(default="", validation_alias="KUBECONFIG")
    """Configuration file of Kubernetes clients; ~/.kube/config if empty."""

    def find_data_dir(self) -> Path:
        """Return the data directory of the local cluster, an absolute path.

        Raises:
            FailedPrecondition: none is set, and the user has no home directory.
        """
        return absolute(self.data_dir)

    def find_endpoint(self) -> str:
        """Return the endpoint of management."""
        return self.endpoint or self.noted("socket") or self.noted("management") or DEFAULT_ENDPOINT

    def noted(self, name: str) -> str:
        """Return a recorded endpoint of the cluster of the data directory, or an empty string.

        Args:
            name: A field of `ClusterEndpoints`, such as `management` or `grpc`.
        """
        try:
            record = json.loads((self.find_data_dir() / CLUSTER_FILE).read_text())
            return str(record[name])
        except (OSError, ValueError, KeyError, FailedPrecondition):
            return ""

    def supervisor_of(self, endpoint: str) -> int:
        """Return the running process that supervises the management at an endpoint; 0 for none."""
        try:
            record = json.loads((self.find_data_dir() / CLUSTER_FILE).read_text())
            if endpoint not in (record["management"], record.get("socket", "")):
                return 0
            process = int(record["pid"])
            os.kill(process, 0)
        except PermissionError:
            # The process exists and belongs to another user.
            return process
        except (OSError, ValueError, KeyError, FailedPrecondition):
            return 0
        return process
