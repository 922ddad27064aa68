"""Settings of the management service."""

import os
from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict
from typing_extensions import Self

from skysail_common import __version__
from skysail_common.process.settings import Host, Port, ServiceSettings, check_tls_pair
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.transports import VARIABLE
from skysail_management.containers.local import inherited_variables as inherited

_PIP_CONFIG = Path("/etc/pip.conf")


class ManagementSettings(ServiceSettings):
    """Settings of `python -m skysail_management`."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_MANAGEMENT_")

    cluster: str = "default"
    """Name of the cluster; several may share a store, an engine or a machine."""

    data_dir: Path
    """Directory for artifacts, and for what the local container manager keeps."""

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), validation_alias="SKYSAIL_REDIS_URL"
    )
    """Server that speaks the Redis protocol; holds all durable state. A secret: it may have a
    password."""

    store_timeout_s: float = Field(0.0, ge=0)
    """How long to wait at the start, in seconds, for a store that does not answer yet, or whose owner
    is gone and has a lease of 15 s."""

    accept_store_loss: str = ""
    """Name of a store whose loss is accepted, as the refusal to start says it: the store is then taken
    as it is, and artifacts and replicas that it does not know are removed. It accepts that one loss
    and no later one."""

    host: Host = "127.0.0.1"
    """Address to listen on; `::` is every one, of IPv4 too."""

    port: Port = 8003
    """Port of the gRPC services."""

    insecure: bool = False
    """Listen on other addresses than loopback without TLS and a token. Every caller there can run
    code on this machine, so that a firewall or a network policy must keep callers away."""

    tls_certificate_file: Path | None = None
    """Certificate for the gRPC services, in PEM, and then those up to its authority; in the clear
    without it. It is read again when it changes. This machine reaches management by a unix socket in
    the data directory then."""

    tls_key_file: Path | None = None
    """Key of the certificate, in PEM and without a pass phrase."""

    tls_check_every_s: float = Field(10.0, gt=0)
    """Time between two looks at whether the files of TLS have changed."""

    token_file: Path | None = None
    """File with the token that operators and frontends must show; anybody is served if none. Replicas
    have tokens of their own."""

    advertised_endpoint: str = ""
    """Where model servers reach management, as host:port; what it listens on if empty."""

    container_manager: str = "local"
    """Back end that runs replicas: `local` (processes of this machine), or the name of an
    installed one."""

    default_max_batch_size: int = Field(64, ge=1, le=65_536)
    """Most rows of one batch, where a deployment does not say."""

    default_start_timeout_s: float = Field(60.0, gt=0)
    """Longest time from the start of a replica to its readiness, where a deployment does not
    say; the wait for its turn to start is no part of it."""

    max_concurrent_starts: int = Field(0, ge=0)
    """Most replicas that start at once; the others wait, so that they do not starve each other of
    cores. A start counts until the replica is ready, at most 30 s. 0 for the number of cores of this
    machine, or on Kubernetes for 16 pods that are asked for at once, however long they load."""

    default_warm_up: bool = True
    """Have each replica call its model with the example of the version before it is ready, and
    measure its speed, where a deployment does not say."""

    warm_up_s: float = Field(0.5, ge=0)
    """Time for the calls that measure the speed of a model; 0 to call it with its example alone, which
    takes what it takes, within the start timeout."""

    prepare_timeout_s: float = Field(900.0, gt=0)
    """Longest time to make an environment or image."""

    drain_timeout_s: float = Field(30.0, ge=0)
    """Longest time that a replica gets to finish what it has before it is killed."""

    stuck_after_s: float = Field(300.0, ge=0)
    """Time after which a call of a model's function is taken for stuck, if it is also 20 times what
    such calls take; its replica is replaced then. 0 for never."""

    max_artifact_bytes: int = Field(4 * 1024**3, gt=0)
    """Largest artifact."""

    autoscaling_target: float = Field(0.7, gt=0, le=1)
    """Share of what its replicas can compute in time that a version which follows its load is to
    use; the rest is for what is not steady."""

    autoscaling_interval_s: float = Field(2.0, ge=0.05, le=60)
    """Time between the reports of a frontend about the load of such a version; a report is of no use
    after 5 times as long."""

    autoscaling_shrink_after_s: float = Field(300.0, gt=0)
    """Time for which fewer replicas must have sufficed before some of them are stopped."""

    pass_env: tuple[str, ...] = ()
    """Variables that local replicas inherit beside the usual ones, by name or by pattern (`AWS_*`).
    Without it credentials in the environment of management stay there."""

    docker_host: str = Field("unix:///var/run/docker.sock", validation_alias="DOCKER_HOST")
    """Where the Docker engine listens, for the container manager `docker`."""

    docker_image: str = f"skysail-model-server:{__version__}"
    """Image of the model server, from which those of versions are made; `make images` makes it."""

    docker_registry: str = ""
    """Registry, with a path if need be, that images of versions are pushed to and looked up in, such
    as registry.example:5000/team; none if empty."""

    docker_registry_user: str = ""
    """User of the registry; if empty, what `docker login` left is used."""

    docker_registry_password: SecretStr = SecretStr("")
    """Password of that user."""

    docker_network: str = ""
    """Network that replicas join, which is made if it does not exist; frontends reach them there.
    Without one they have no network, and frontends reach them by a unix socket."""

    docker_internet: bool = False
    """Let replicas reach the internet, and whatever else this machine reaches."""

    docker_build_network: str = "bridge"
    """Network on which pip installs the packages of a version."""

    docker_cpus: float = Field(0.0, ge=0)
    """CPUs of one replica, where a deployment does not say; 0 for no limit."""

    docker_memory_mib: int = Field(0, ge=0)
    """Memory in MiB of one replica, where a deployment does not say; 0 for no limit."""

    docker_gpus: int = Field(0, ge=-1)
    """GPUs of one replica, where a deployment does not say; -1 for all."""

    docker_max_processes: int = Field(512, ge=16)
    """Processes and threads that one replica may have."""

    docker_scratch_mib: int = Field(512, ge=1)
    """Size in MiB of a replica's directory for temporary files, and of the one for its work; both
    count as its memory."""

    docker_volumes: tuple[str, ...] = ()
    """What replicas see of this machine, each as /here:/there:ro."""

    kubeconfig: str = Field("", validation_alias="KUBECONFIG")
    """File that says how the Kubernetes cluster is reached, for the container manager `kubernetes`; if
    empty, the pod's own service account or ~/.kube/config."""

    kubernetes_context: str = ""
    """Context of that file; its current one if empty."""

    kubernetes_proxy_addr: str = ""
    """Where `kubectl proxy` listens, as host:port; used instead of a file."""

    kubernetes_namespace: str = ""
    """Namespace of the cluster's pods; if empty, that of the service account or context."""

    kubernetes_image: str = f"skysail-model-server:{__version__}"
    """Image of the model server."""

    kubernetes_service_account: str = "default"
    """Service account of replicas, which gets no token; its pull secrets are theirs."""

    kubernetes_packages_claim: str = ""
    """Claim of a volume that many pods may mount, where packages of versions are installed once."""

    kubernetes_cpus: float = Field(0.0, ge=0)
    """CPUs of one replica, requested and its limit, where a deployment does not say; 0 for none."""

    kubernetes_memory_mib: int = Field(0, ge=0)
    """Memory in MiB of one replica, requested and its limit, where a deployment does not say; 0 for
    none."""

    kubernetes_gpus: int = Field(0, ge=0)
    """GPUs of one replica, where a deployment does not say."""

    kubernetes_gpu_resource: str = "nvidia.com/gpu"
    """What the device plugin of the nodes calls a GPU."""

    kubernetes_scratch_mib: int = Field(512, ge=1)
    """Largest size in MiB of a replica's directory for temporary files, and of the one for its work."""

    kubernetes_node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels that nodes of replicas must have, as JSON."""

    kubernetes_tolerations: tuple[dict[str, str | int], ...] = ()
    """Tolerations of replicas, as in a pod's specification, as JSON."""

    kubernetes_pod: str = ""
    """Name of management's own pod; it is marked as the leader while it holds the lease."""

    kubernetes_lease: str = ""
    """Name of the lease that management must hold to work, so that one of several does; none if
    empty."""

    kubernetes_lease_s: int = Field(15, ge=3)
    """Seconds after which another may take a lease that is not renewed; whoever holds it stops after
    two thirds of them."""

    artifact_port: Port | None = None
    """Port where replicas fetch their artifact, which then serves nothing else and is the only one
    that does; they use `port` if not set."""

    stop_replicas_on_exit: bool = False
    """Stop all replicas when management is told to stop. Without it they go on serving and are
    taken over by the next management."""

    stop_replicas_only: bool = False
    """Stop every replica that a management of this data directory left running, and end."""

    watch_parent: bool = False
    """Stop, with all replicas, when standard input ends, which is when the parent process is
    gone."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        check_tls_pair(self.tls_certificate_file, self.tls_key_file)
        return self

    def read_certificates(self) -> ServerCertificates | None:
        """Return the certificates that management shows; None for in the clear.

        Raises:
            FailedPrecondition: see `ServerCertificates`.
        """
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerCertificates(self.tls_certificate_file, self.tls_key_file)

    def replica_variables(self) -> dict[str, str]:
        """Return the variables of this process that local replicas inherit."""
        return inherited.replica_variables(os.environ, self.pass_env)

    def install_variables(self) -> dict[str, str]:
        """Return the variables of this process that pip inherits on this machine."""
        return inherited.install_variables(os.environ, self.pass_env)

    def transport_variable(self) -> dict[str, str]:
        """Return the variable that names the transport of the whole cluster; empty if it is not set."""
        return {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}

    def build_environment(self) -> dict[str, str]:
        """Return what tells pip in a container how packages are reached from here."""
        shared = inherited.pip_variables(os.environ)
        if _PIP_CONFIG.exists():
            shared.setdefault("PIP_CONFIG_FILE", str(_PIP_CONFIG))
        return shared
