"""What a cluster is told, and how it is reached then."""

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class ClusterOptions:
    """What `skysail up` is told."""

    data_dir: Path
    cluster: str = "default"
    host: str = "127.0.0.1"
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
    redis_url: str = ""
    """Server that speaks the Redis protocol; an embedded one if empty."""
    log_level: str = "info"
    log_format: str = "console"

    def ports(self) -> dict[str, int]:
        """Return the ports by the flag that names each."""
        names = [field.name for field in fields(self) if field.name.endswith("_port")]
        ports = {f"--{name.replace('_', '-')}": getattr(self, name) for name in names}
        return {flag: port for flag, port in ports.items() if port is not None}


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
