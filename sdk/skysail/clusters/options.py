"""Options of a cluster on one machine, and its endpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class ClusterOptions:
    """The options of `skysail up`."""

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
    """What runs replicas; what management's own settings say if empty."""
    pass_env: tuple[str, ...] = ()
    """Variables, or patterns of them, that local replicas inherit beside the usual ones."""
    redis_url: str = ""
    """Server that speaks the Redis protocol; an embedded one if empty."""
    log_level: str = "info"
    log_format: str = "console"

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
    """How a running cluster is reached."""

    management: str
    grpc: str
    http: str
    metrics: str
    prometheus: str = ""
    """Empty where none runs."""
    scheme: str = "http"
    """What HTTP clients put before the endpoint of frontends: `https` if these speak TLS."""
    socket: str = ""
    """Where this machine reaches management if that speaks TLS, as unix:/path; empty otherwise."""


def scheme_of(environment: Mapping[str, str]) -> str:
    """Return what HTTP clients put before the endpoint of a frontend with these settings."""
    return "https" if environment.get("SKYSAIL_FRONTEND_TLS_CERTIFICATE_FILE") else "http"
