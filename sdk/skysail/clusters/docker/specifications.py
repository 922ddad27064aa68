"""Specifications of the containers of a cluster, as pure functions of its options.

      this machine     127.0.0.1:8003                        127.0.0.1:8000 8001 8002
                             │                                         │
    store ── a socket ── management ─────────── doors ───────────── frontend
     (no network)            └─ replica ─ replica ─ replicas (internal) ┘

The store has no network. Management is on both networks, because it checks the health of replicas, but
listens on `doors` only. Prometheus is on `doors`. `compose.yaml` has the same services.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skysail.clusters.options import ClusterOptions
from skysail_common import __version__
from skysail_common.docker.labels import labels
from skysail_common.process.pip_configuration import package_variables
from skysail_common.process.sockets import split_host_port
from skysail_common.rpc.transports import VARIABLE

STORE, MANAGEMENT, FRONTEND, PROMETHEUS = "store", "management", "frontend", "prometheus"
SERVICE = "service"
"""Label with the service of a container."""

PORTS: dict[str, dict[str, int]] = {
    STORE: {},
    MANAGEMENT: {"management": 8003},
    FRONTEND: {"grpc": 8001, "http": 8000, "metrics": 8002},
    PROMETHEUS: {"prometheus": 9090},
}
"""Ports of each service inside its container."""

NEAR_REPLICAS = (MANAGEMENT, FRONTEND)
"""Services that are also on the network of replicas."""

FILES: dict[str, tuple[str, ...]] = {
    MANAGEMENT: ("SKYSAIL_MANAGEMENT_TOKEN_FILE",),
    FRONTEND: (
        "SKYSAIL_FRONTEND_MANAGEMENT_TOKEN_FILE",
        "SKYSAIL_FRONTEND_TLS_CERTIFICATE_FILE",
        "SKYSAIL_FRONTEND_TLS_CLIENT_CA_FILE",
        "SKYSAIL_FRONTEND_TLS_KEY_FILE",
    ),
}
"""Variables of each service that name files of this machine, which are copied for it."""

_SOCKET = "/store/store.sock"
_ENGINE = "/run/docker.sock"
_DOOR = "management-on-doors"
_SCRAPE_INTERVAL = "15s"
_STOP_TIMEOUT_S = 30

_ISOLATION: dict[str, Any] = {
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "ReadonlyRootfs": True,
    "Tmpfs": {"/tmp": "rw,nosuid,nodev,size=64m,mode=1777"},
    "Init": True,
    "RestartPolicy": {"Name": "unless-stopped"},
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
}


@dataclass(frozen=True)
class DockerSpecifications:
    """The specifications of the containers of one cluster."""

    options: ClusterOptions
    environment: Mapping[str, str]
    """Environment of `skysail up`, with settings of the services and of pip."""
    user: int
    """Owner of the directories and user of the services."""
    engine_socket: Path
    engine_group: int
    """Group with access to the engine."""

    @property
    def directory(self) -> Path:
        """Directory of this machine with a data directory for each service."""
        return self.options.data_dir.resolve() / "docker"

    @property
    def identity_labels(self) -> dict[str, str]:
        """Labels that the containers of the services and the replicas share."""
        return identity_labels(self.options.data_dir)

    def name(self, part: str) -> str:
        """Return the name of a container or a network, unique to the cluster."""
        digest = hashlib.sha256(str(self.directory).encode()).hexdigest()[:8]
        return f"skysail-{self.options.cluster}-{digest}-{part}"

    @property
    def prometheus_file(self) -> Path:
        """File of this machine with the configuration of Prometheus."""
        return self.directory / PROMETHEUS / "prometheus.yml"

    @property
    def prometheus_data(self) -> Path:
        """Directory of this machine with the data of Prometheus."""
        return self.directory / PROMETHEUS / "data"

    def files(self, service: str) -> dict[str, Path]:
        """Return the files of this machine that a service needs, by their variables."""
        given = dict(self.environment)
        if token := given.get("SKYSAIL_MANAGEMENT_TOKEN_FILE"):
            given.setdefault("SKYSAIL_FRONTEND_MANAGEMENT_TOKEN_FILE", token)
        return {name: Path(given[name]).absolute() for name in FILES[service] if given.get(name)}

    def copies(self, service: str) -> Path:
        """Return the directory of this machine with the copies of these files."""
        return self.directory / service / "files"

    def networks(self) -> dict[str, dict[str, Any]]:
        """Return the specifications of the networks by their names."""
        replicas = {
            "internal": True,
            # This machine has no address on the network, so that replicas cannot reach its services.
            "options": {"com.docker.network.bridge.inhibit_ipv4": "true"},
        }
        return {self.name("doors"): {}, self.name("replicas"): replicas}

    def ports(self, service: str) -> dict[str, int]:
        """Return the published ports of a service on this machine; 0 for any."""
        return {name: getattr(self.options, f"{name}_port") for name in PORTS[service]}

    def config(self, service: str, endpoints: Mapping[str, str]) -> dict[str, Any]:
        """Return the specification of the container of a service.

        Args:
            service: `store`, `management`, `frontend` or `prometheus`.
            endpoints: Published endpoints on this machine, as host:port by the names in `PORTS`.
        """
        parts = {
            STORE: self._store,
            MANAGEMENT: self._management,
            PROMETHEUS: self._prometheus,
        }
        details = parts[service]() if service in parts else self._frontend(endpoints)
        own, environment = details.pop("HostConfig"), details.pop("Env", {})
        published = {
            f"{PORTS[service][name]}/tcp": split_host_port(endpoint)
            for name, endpoint in endpoints.items()
        }
        return {
            "Image": f"skysail-{service}:{__version__}",
            "User": f"{self.user}:{self.user}",
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Labels": labels({**self.identity_labels, SERVICE: service}),
            "ExposedPorts": {port: {} for port in published},
            "StopTimeout": _STOP_TIMEOUT_S,
            "HostConfig": {
                **_ISOLATION,
                "PortBindings": {
                    port: [{"HostIp": host, "HostPort": str(number)}]
                    for port, (host, number) in published.items()
                },
                **own,
            },
            **details,
        }

    def _store(self) -> dict[str, Any]:
        # The import is here because the base install lacks the client of the store.
        from skysail_common.store import embedded

        options = embedded.server_options(Path("/data"), Path("/data/store.sock"))
        return {
            "Cmd": ["valkey-server", *options],
            "HostConfig": {"NetworkMode": "none", "Binds": [f"{self.directory / STORE}:/data"]},
        }

    def _management(self) -> dict[str, Any]:
        own = self.directory / MANAGEMENT
        kept = dict(self._kept("SKYSAIL_MANAGEMENT_"))
        kept |= package_variables(self.environment)
        binds = [
            # The path is the same inside, because labels of replicas and images contain it.
            f"{own}:{own}",
            f"{self.directory / STORE}:{Path(_SOCKET).parent}",
            f"{self.engine_socket}:{_ENGINE}",
            *(f"{path}:{path}:ro" for path in sorted(set(pip_files(kept)))),
        ]
        return {
            "Env": {
                **kept,
                **self._common("SKYSAIL_MANAGEMENT_"),
                **{name: self.copies(MANAGEMENT) / name for name in self.files(MANAGEMENT)},
                "SKYSAIL_MANAGEMENT_CLUSTER": self.options.cluster,
                "SKYSAIL_MANAGEMENT_DATA_DIR": own,
                "SKYSAIL_MANAGEMENT_HOST": _DOOR,
                # The network and the address of the published port keep callers away.
                "SKYSAIL_MANAGEMENT_INSECURE": "true",
                "SKYSAIL_MANAGEMENT_CONTAINER_MANAGER": "docker",
                "SKYSAIL_MANAGEMENT_DOCKER_NETWORK": self.name("replicas"),
                "SKYSAIL_REDIS_URL": self.options.redis_url or f"unix://{_SOCKET}",
                "DOCKER_HOST": f"unix://{_ENGINE}",
            },
            "HostConfig": {
                "NetworkMode": self.name("doors"),
                "Binds": binds,
                "GroupAdd": [str(self.engine_group)],
                # The setting keeps replicas from learning its address on `doors` by ARP.
                "Sysctls": {"net.ipv4.conf.all.arp_ignore": "1"},
            },
            "NetworkingConfig": {"EndpointsConfig": {self.name("doors"): {"Aliases": [_DOOR]}}},
        }

    def _frontend(self, endpoints: Mapping[str, str]) -> dict[str, Any]:
        return {
            "Env": {
                **dict(self._kept("SKYSAIL_FRONTEND_")),
                **self._common("SKYSAIL_FRONTEND_"),
                **{name: f"/data/files/{name}" for name in self.files(FRONTEND)},
                "SKYSAIL_FRONTEND_FRONTEND_ID": f"{self.options.cluster}-frontend",
                "SKYSAIL_FRONTEND_MANAGEMENT_ENDPOINT": f"{_DOOR}:{PORTS[MANAGEMENT]['management']}",
                "SKYSAIL_FRONTEND_WORKERS": self.options.num_workers,
                "SKYSAIL_FRONTEND_SNAPSHOT_FILE": "/data/routes.snapshot",
                "SKYSAIL_FRONTEND_ADVERTISED_GRPC_ENDPOINT": endpoints["grpc"],
                "SKYSAIL_FRONTEND_ADVERTISED_HTTP_ENDPOINT": endpoints["http"],
            },
            "HostConfig": {
                "NetworkMode": self.name("doors"),
                "Binds": [f"{self.directory / FRONTEND}:/data"],
            },
            "NetworkingConfig": {"EndpointsConfig": {self.name("doors"): {"Aliases": [FRONTEND]}}},
        }

    def _prometheus(self) -> dict[str, Any]:
        return {
            "HostConfig": {
                "NetworkMode": self.name("doors"),
                "Binds": [
                    f"{self.prometheus_file}:/etc/prometheus/prometheus.yml:ro",
                    f"{self.prometheus_data}:/prometheus",
                ],
            },
        }

    def _kept(self, prefix: str) -> Iterator[tuple[str, str]]:
        for name, value in self.environment.items():
            if name.startswith(prefix) or name == VARIABLE:
                yield name, value

    def _common(self, prefix: str) -> dict[str, str]:
        options = self.options
        return {
            f"{prefix}LOG_LEVEL": options.log_level,
            f"{prefix}LOG_FORMAT": options.log_format,
        }


def prometheus_config() -> dict[str, Any]:
    """Return the configuration of Prometheus; its JSON form is valid YAML.

    DNS on the network resolves the name of frontends to all of them. Frontends also measure replicas,
    by version, because model servers have no metrics page.
    """
    frontends = {
        "names": [FRONTEND],
        "type": "A",
        "port": PORTS[FRONTEND]["metrics"],
        "refresh_interval": _SCRAPE_INTERVAL,
    }
    return {
        "global": {"scrape_interval": _SCRAPE_INTERVAL},
        "scrape_configs": [{"job_name": "skysail-frontend", "dns_sd_configs": [frontends]}],
    }


def identity_labels(data_dir: Path) -> dict[str, str]:
    """Return the label that identifies all containers of a cluster, including replicas."""
    return {"data-dir": str(data_dir.resolve() / "docker" / MANAGEMENT)}


def pip_files(variables: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files and directories of this machine that pip needs to reach packages."""
    words = [word for value in variables.values() for word in value.split()]
    for path in map(Path, ["/etc/pip.conf", *words]):
        if path.is_absolute() and path.exists():
            yield path
