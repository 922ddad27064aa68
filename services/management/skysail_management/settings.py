"""Settings of the management service."""

import os
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict
from typing_extensions import Self

from skysail_common import __version__
from skysail_common.process import inherited_variables as inherited
from skysail_common.process.pip_configuration import package_variables
from skysail_common.process.settings import Host, Port, ServiceSettings, check_tls_pair
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.transports import VARIABLE

_PIP_CONFIG = Path("/etc/pip.conf")


class ManagementSettings(ServiceSettings):
    """Settings of `python -m skysail_management`."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_MANAGEMENT_")

    cluster: str = "default"
    """Name of the cluster; several may share a store, an engine or a machine."""

    data_dir: Path
    """Directory of artifacts, and of the files of the local container manager."""

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), validation_alias="SKYSAIL_REDIS_URL"
    )
    """URL of a server with the Redis protocol, which holds all durable state. It is a secret,
    because it may contain a password."""

    store_timeout_s: float = Field(0.0, ge=0)
    """Longest wait at the start, in seconds, for a store that does not answer yet, or whose dead
    owner has a lease of 15 s."""

    accept_store_loss: str = ""
    """Name of an accepted loss of the store, as given by the error at the start. Management then
    uses the store as it is, and removes artifacts and replicas that the store does not know. The
    setting accepts that one loss and no later one."""

    host: Host = "127.0.0.1"
    """Address to listen on; `::` means every address, including those of IPv4."""

    port: Port = 8003
    """Port of the gRPC services."""

    insecure: bool = False
    """Listen on other addresses than loopback without TLS and a token. Every caller can then run
    code on this machine, so that a firewall or a network policy must keep callers away."""

    tls_certificate_file: Path | None = None
    """File with the certificate chain of the gRPC services, in PEM; plain text if not set. A
    changed file is read again. With TLS, processes on this machine reach management by a unix
    socket in the data directory."""

    tls_key_file: Path | None = None
    """File with the key of the certificate, in PEM and without a pass phrase."""

    tls_check_every_s: float = Field(10.0, gt=0)
    """Time between checks for changed TLS files, in seconds."""

    token_file: Path | None = None
    """File with the token that operators and frontends must show; if not set, everyone is served.
    Replicas have their own tokens."""

    advertised_endpoint: str = ""
    """Endpoint of management for model servers, as host:port; the listen address if empty."""

    container_manager: str = "local"
    """Back end that runs replicas: `local` (processes of this machine), or the name of an installed
    back end."""

    default_max_batch_size: int = Field(64, ge=1, le=65_536)
    """Most rows of one batch, if a deployment does not set it."""

    default_start_timeout_s: float = Field(60.0, gt=0)
    """Longest time from the start of a replica to its readiness, in seconds, if a deployment does
    not set it. It excludes the wait for a start slot."""

    max_concurrent_starts: int = Field(0, ge=0)
    """Most replicas that start at once; others wait, so that they do not starve each other of
    cores. A start counts until the replica is ready, at most 30 s. 0 means the number of cores of
    this machine. On Kubernetes, 0 means 16 pods that are requested at once, however long they
    load."""

    default_warm_up: bool = True
    """Call the model with the example of the version and measure its latency before a replica is
    ready, if a deployment does not set it."""

    warm_up_s: float = Field(0.5, ge=0)
    """Time for calls that measure the latency of a model, in seconds. With 0, the model is called
    with its example only, which may take as long as the start timeout."""

    prepare_timeout_s: float = Field(900.0, gt=0)
    """Longest time to build an environment or image, in seconds."""

    drain_timeout_s: float = Field(30.0, ge=0)
    """Longest time for a replica to finish its batches before it is killed, in seconds."""

    stuck_after_s: float = Field(300.0, ge=0)
    """Time after which a call of a model's function counts as stuck, in seconds, if it also exceeds
    20 times the usual time of such calls. Its replica is then replaced. 0 means never."""

    check_health_s: float = Field(10.0, ge=0)
    """Time between two calls of a model's `check_health`, in seconds, for a model that has one. A
    replica whose model stays unhealthy is replaced. 0 for no calls."""

    max_artifact_bytes: int = Field(64 * 1024**3, gt=0)
    """Size limit of an artifact in bytes: of its model, code and data files together, unpacked. The
    limit is checked before they are sent. Files that several versions share are stored once."""

    autoscaling_target: float = Field(0.7, gt=0, le=1)
    """Share of the capacity of its replicas that an autoscaled version should use; the rest is for
    variation."""

    autoscaling_interval_s: float = Field(2.0, ge=0.05, le=60)
    """Time between the load reports of a frontend about an autoscaled version, in seconds. A report
    expires after 5 times as long."""

    autoscaling_shrink_after_s: float = Field(300.0, gt=0)
    """Time for which fewer replicas must suffice before some are stopped, in seconds."""

    pass_env: tuple[str, ...] = ()
    """Environment variables that local replicas inherit besides the usual ones, by name or pattern
    (`AWS_*`). By default, credentials in the environment of management do not reach replicas."""

    gpu_devices: str = "auto"
    """GPUs that local replicas may reserve, as in CUDA_VISIBLE_DEVICES (`0,1`); `auto` for those that
    management sees, by that variable or `nvidia-smi -L`; empty for none, and replicas then see all."""

    docker_host: str = Field("unix:///var/run/docker.sock", validation_alias="DOCKER_HOST")
    """Address of the Docker engine, for the container manager `docker`."""

    docker_image: str = f"skysail-model-server:{__version__}"
    """Image of the model server, on which the images of versions are built; `make images` builds
    it."""

    docker_registry: str = ""
    """Registry, optionally with a path, to which images of versions are pushed and in which they
    are looked up, such as registry.example:5000/team; empty for none."""

    docker_registry_user: str = ""
    """User of the registry; if empty, the credentials of `docker login` are used."""

    docker_registry_password: SecretStr = SecretStr("")
    """Password of that user."""

    docker_network: str = ""
    """Network that replicas join and in which frontends reach them; created if it does not exist.
    If empty, replicas have no network, and frontends reach them by a unix socket."""

    docker_internet: bool = False
    """Let replicas reach the internet, and every other network of this machine."""

    docker_build_network: str = "bridge"
    """Network on which uv or pip installs the packages of a version."""

    docker_cpus: float = Field(0.0, ge=0)
    """CPUs of one replica, if a deployment does not set them; 0 for no limit."""

    docker_memory_mib: int = Field(0, ge=0)
    """Memory in MiB of one replica, if a deployment does not set it; 0 for no limit."""

    docker_gpus: int = Field(0, ge=-1)
    """GPUs of one replica, if a deployment does not set them; -1 for all."""

    docker_max_processes: int = Field(512, ge=16)
    """Most processes and threads of one replica."""

    docker_scratch_mib: int = Field(512, ge=1)
    """Size in MiB of the directory for temporary files of a replica, and of its working directory;
    both count as its memory."""

    docker_volumes: tuple[str, ...] = ()
    """Mounts of directories of this machine into replicas, each as /here:/there:ro."""

    docker_mount_files: bool = True
    """Mount files of models above 64 MiB from the data directory into replicas, so that no image
    holds them. The data directory must have the same path on the machine of the engine. With
    `docker-registry`, images hold all files."""

    kubeconfig: str = Field("", validation_alias="KUBECONFIG")
    """Configuration file for access to the Kubernetes cluster, for the container manager
    `kubernetes`; if empty, the service account of the pod or ~/.kube/config."""

    kubernetes_context: str = ""
    """Context of the configuration file; its current context if empty."""

    kubernetes_proxy_addr: str = ""
    """Address of `kubectl proxy`, as host:port; used instead of a configuration file."""

    kubernetes_namespace: str = ""
    """Namespace of the pods of the cluster; if empty, the namespace of the service account or
    context."""

    kubernetes_image: str = f"skysail-model-server:{__version__}"
    """Image of the model server."""

    kubernetes_service_account: str = "default"
    """Service account of replicas, which get no token but its pull secrets."""

    kubernetes_packages_claim: str = ""
    """Claim of a volume that many pods may mount, into which packages of versions are installed
    once."""

    kubernetes_cache_host_path: str = ""
    """Directory of each node in which the pods of the node share the files of models, such as
    /var/lib/skysail/cache. It must belong to user 65532. If neither this nor
    `kubernetes-cache-claim` is set, each pod fetches all files."""

    kubernetes_cache_claim: str = ""
    """Claim of a volume in which pods share the files of models, used instead of
    `kubernetes-cache-host-path`."""

    kubernetes_cache_max_mib: int = Field(51200, ge=0)
    """Size in MiB beyond which the least recently used files of that directory or volume are
    removed; those of live pods stay."""

    kubernetes_cpus: float = Field(0.0, ge=0)
    """CPUs of one replica, as request and limit, if a deployment does not set them; 0 for none."""

    kubernetes_memory_mib: int = Field(0, ge=0)
    """Memory in MiB of one replica, as request and limit, if a deployment does not set it; 0 for
    none."""

    kubernetes_gpus: int = Field(0, ge=0)
    """GPUs of one replica, if a deployment does not set them."""

    kubernetes_gpu_resource: str = "nvidia.com/gpu"
    """Resource name of GPUs in the device plugin of the nodes."""

    kubernetes_scratch_mib: int = Field(512, ge=1)
    """Size limit in MiB of the directory for temporary files of a replica, and of its working
    directory."""

    kubernetes_node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that may run replicas, as JSON."""

    kubernetes_tolerations: tuple[dict[str, str | int], ...] = ()
    """Tolerations of replicas, as in a pod's specification, as JSON."""

    kubernetes_pod: str = ""
    """Name of the pod of management, which gets the leader label while it holds the lease."""

    kubernetes_lease: str = ""
    """Name of the lease that management must hold to serve, so that one of several leads; empty for
    none."""

    kubernetes_lease_s: int = Field(15, ge=3)
    """Seconds without a renewal after which another management may take the lease; the holder exits
    after two thirds of them."""

    artifact_port: Port | None = None
    """Port from which replicas fetch their artifact. It serves nothing else, and no other port then
    serves artifacts. If not set, replicas use `port`."""

    stop_replicas_on_exit: bool = False
    """Stop all replicas when management is stopped. By default they keep serving, and the next
    management adopts them."""

    stop_replicas_only: bool = False
    """Stop every replica that a management of this data directory left running, and exit."""

    watch_parent: bool = False
    """Stop management and all replicas when standard input ends, which means that the parent
    process is gone."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        check_tls_pair(self.tls_certificate_file, self.tls_key_file)
        return self

    @model_validator(mode="after")
    def _cache_has_one_place(self) -> Self:
        if self.kubernetes_cache_host_path and self.kubernetes_cache_claim:
            raise ValueError("set kubernetes-cache-host-path or kubernetes-cache-claim, not both")
        return self

    def read_certificates(self) -> ServerCertificates | None:
        """Return the certificates of management, or None for plain text.

        Raises:
            FailedPrecondition: as for `ServerCertificates`.
        """
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerCertificates(self.tls_certificate_file, self.tls_key_file)

    def replica_variables(self) -> dict[str, str]:
        """Return the variables of this process that local replicas inherit."""
        return inherited.replica_variables(os.environ, self.pass_env)

    def install_variables(self) -> dict[str, str]:
        """Return the variables of this process that pip and uv inherit on this machine."""
        return inherited.install_variables(os.environ, self.pass_env)

    def transport_variable(self) -> dict[str, str]:
        """Return the variable with the transport of the whole cluster; empty if it is not set."""
        return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}

    def build_environment(self) -> dict[str, str]:
        """Return the variables that tell pip and uv in a container how to reach packages."""
        shared = package_variables(os.environ)
        if _PIP_CONFIG.exists():
            shared.setdefault("PIP_CONFIG_FILE", str(_PIP_CONFIG))
        return shared
