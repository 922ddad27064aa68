"""Options of a cluster on this machine, and the endpoints of any cluster."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from skysail.settings import ClientSettings
from skysail_common.process.sockets import without_brackets


@dataclass(frozen=True)
class ClusterOptions:
    """The options of a cluster on this machine, as processes or as containers."""

    data_dir: Path
    cluster: str = "default"
    host: str = "127.0.0.1"
    """Address of the frontend."""
    management_host: str = "127.0.0.1"
    """Address of management, which runs the code of its callers."""
    insecure: bool = False
    """True to open management on other addresses than loopback without TLS and a token."""
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    management_port: int = 8003
    prometheus_port: int | None = None
    """Where Prometheus listens; None for no Prometheus. All in Docker only."""
    num_workers: int = 1
    """Processes of the frontend, which share its ports."""
    container_manager: str = ""
    """Container manager that runs replicas; the settings of management choose it if empty."""
    pass_env: tuple[str, ...] = ()
    """Variables, or patterns of them, that local replicas inherit beside the usual ones."""
    accept_store_loss: str = ""
    """Identifier of a store that lost its data, and that management may use anyway."""
    redis_url: str = ""
    """Server that speaks the Redis protocol; an embedded one if empty."""
    log_level: str = "info"
    log_format: str = "console"

    @classmethod
    def from_flags(cls, data_dir: Path, flags: Mapping[str, Any]) -> "ClusterOptions":
        """Return the options that the flags of a command give, by the names of the fields."""
        names = {field.name for field in fields(cls)}
        given = {name: value for name, value in flags.items() if name in names}
        for name in ("host", "management_host"):
            if name in given:
                given[name] = without_brackets(given[name])
        return cls(**{"redis_url": ClientSettings().redis_url, **given, "data_dir": data_dir})

    def management_environment(self) -> dict[str, str]:
        """Return the variables by which management reads options that have no flag there."""
        if not self.accept_store_loss:
            return {}
        return {"SKYSAIL_MANAGEMENT_ACCEPT_STORE_LOSS": self.accept_store_loss}

    def addresses(self) -> dict[str, tuple[str, int]]:
        """Return the listen addresses of the cluster by the flag of each port."""
        names = [field.name for field in fields(self) if field.name.endswith("_port")]
        ports = {name: getattr(self, name) for name in names}
        return {
            f"--{name.replace('_', '-')}": (self.host_of(name.removesuffix("_port")), port)
            for name, port in ports.items()
            if port is not None
        }

    def host_of(self, name: str) -> str:
        """Return the address of a port by its name, such as `management` or `http`."""
        return self.management_host if name == "management" else self.host


@dataclass(frozen=True)
class ClusterEndpoints:
    """The endpoints of a running cluster; one is empty if this machine cannot reach it."""

    management: str
    grpc: str
    http: str
    metrics: str
    prometheus: str = ""
    """Empty if Prometheus does not run."""
    scheme: str = "http"
    """URL scheme of the HTTP endpoint: `https` if frontends speak TLS, else `http`."""
    socket: str = ""
    """Unix socket of management, as unix:/path, if its port speaks TLS; empty otherwise."""


def frontend_scheme(environment: Mapping[str, str]) -> str:
    """Return the URL scheme of the HTTP port of a frontend with these settings."""
    return "https" if environment.get("SKYSAIL_FRONTEND_TLS_CERTIFICATE_FILE") else "http"
