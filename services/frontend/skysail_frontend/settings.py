"""Settings of a frontend."""

from pathlib import Path

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict
from typing_extensions import Self

from skysail_common.process.settings import Host, Port, ServiceSettings, check_tls_pair
from skysail_common.process.sockets import is_loopback
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.management_access import ManagementAccess, read_token
from skysail_common.rpc.transports import VARIABLE, TransportName
from skysail_frontend.ingress.http_hosts import host_of
from skysail_frontend.ingress.http_limits import HttpLimits


class FrontendSettings(ServiceSettings):
    """Settings of `python -m skysail_frontend`."""

    model_config = SettingsConfigDict(env_prefix="SKYSAIL_FRONTEND_")

    management_endpoint: str = "127.0.0.1:8003"
    """Where management is reached, as host:port or unix:/path; the routes come from there."""

    management_tls_ca_file: Path | None = None
    """Authorities of management's certificate, in PEM; in the clear without it."""

    management_token_file: Path | None = None
    """File with the token that management asks for; read again whenever the frontend connects."""

    frontend_id: str = ""
    """Name of this frontend, unique in the cluster; host and process id if empty."""

    host: Host = "127.0.0.1"
    """Address to listen on; `::` is every one, of IPv4 too."""

    grpc_port: Port = 8001
    """Port of the gRPC services."""

    http_port: Port = 8000
    """Port of the HTTP service."""

    advertised_grpc_endpoint: str = ""
    """Where clients reach the gRPC services, as host:port; if empty, what it listens on, or loopback
    where it listens on every address."""

    advertised_http_endpoint: str = ""
    """Where clients reach the HTTP service, as host:port; if empty, what it listens on, or loopback
    where it listens on every address."""

    transport: TransportName = Field("auto", validation_alias=VARIABLE)
    """What carries gRPC: `native` (the package skysail-transport), `grpc` (grpc.aio), or `auto`,
    which is native where that is installed."""

    tls_certificate_file: Path | None = None
    """Certificate for the gRPC and HTTP services, in PEM, and then those up to its authority; both
    serve in the clear without it. It is read again when it changes."""

    tls_key_file: Path | None = None
    """Key of the certificate, in PEM and without a pass phrase."""

    tls_client_ca_file: Path | None = None
    """Authorities, in PEM: only clients with a certificate of one of them are served (mutual
    TLS)."""

    tls_check_every_s: float = Field(10.0, gt=0)
    """Time between two looks at whether the files of TLS have changed."""

    workers: int = Field(1, ge=1, le=256)
    """Processes that share the ports; each is linked to every replica."""

    shares_ports: bool = False
    """Listen beside other processes on the same ports; set by a frontend with several workers."""

    metrics_port: Port = 8002
    """Port of the metrics page for Prometheus, and of /live and /ready; never with TLS."""

    snapshot_file: Path | None = None
    """File for the last routes, from which a frontend starts while management is away."""

    report_every_s: float = Field(15.0, gt=0)
    """Time between reports to management of how fast versions are, which outlive the frontend."""

    server_name: str = "skysail"
    """Name in the server metadata of the Open Inference Protocol."""

    has_triton_errors: bool = False
    """Answer queries of the Open Inference Protocol that are shed with Triton's codes and texts."""

    default_timeout_s: float = Field(60.0, gt=0)
    """Longest wait of a query for which neither its caller nor an application sets one."""

    max_queue_size: int = Field(10_000, ge=1)
    """Rows that may wait for one model version that sets no limit itself; more are refused."""

    max_queue_mib: int = Field(1024, ge=1)
    """Memory for the inputs of queries that are not answered yet, of all versions, in MiB; more are
    refused. A single query may be larger."""

    cache_mib: int = Field(256, ge=0)
    """Memory for predictions of the versions that cache them, in MiB."""

    max_message_mib: int = Field(64, ge=1, le=2047)
    """Largest message or HTTP body."""

    http_keep_alive_s: int = Field(75, ge=1)
    """Time for which an HTTP connection without requests stays open; longer than that of a proxy in
    front, or the proxy meets closed connections."""

    http_head_timeout_s: float = Field(10.0, gt=0)
    """Longest time to send the head of an HTTP request, and to begin the first one."""

    http_body_timeout_s: float = Field(60.0, gt=0)
    """Longest time to send the body of an HTTP request, and to read an answer."""

    http_max_connections: int = Field(10_000, ge=1)
    """HTTP connections at a time; more are refused with status 503."""

    http_max_requests: int = Field(10_000, ge=1)
    """HTTP requests that are answered at a time; more are refused with status 503."""

    http_max_head_kib: int = Field(64, ge=1)
    """Largest head of an HTTP request, in KiB; larger ones are refused with status 431."""

    http_max_headers: int = Field(100, ge=1)
    """Most headers of an HTTP request; more are refused with status 431."""

    http_max_memory_mib: int = Field(256, ge=1)
    """Memory for the bodies of all HTTP requests, in MiB, at least four of the largest; requests
    beyond are refused with status 503. Unread answers may take as much again."""

    http_allowed_hosts: str = ""
    """Hosts that HTTP requests may name, separated by commas, beside IP addresses; `*` for any. If
    empty, a frontend on a loopback address takes the names of loopback and its advertised endpoint,
    because a web page can let a browser ask 127.0.0.1 by any other name; a frontend on other
    addresses takes any."""

    http_drain_idle_s: float = Field(5.0, ge=0)
    """Time for which a frontend that stops keeps idle HTTP connections; a client that sends within
    it is answered and told to close."""

    max_stream_queries: int = Field(1000, ge=1)
    """Unanswered queries of one stream; it is not read beyond."""

    max_connection_age_s: float = Field(0.0, ge=0, le=30_000_000)
    """Age at which a client is told to connect again, a tenth more or less by chance, so that a new
    frontend gets its share; its queries under way are answered first. Over HTTP the next answer
    says so. 0 for never; the manifests for Kubernetes set 300."""

    drain_timeout_s: float = Field(10.0, ge=0)
    """Longest time to answer what is under way before the process ends."""

    watch_parent: bool = False
    """Stop when standard input ends, which is when the parent process is gone."""

    serve_on_s: float = Field(0.0, ge=0)
    """Time to go on when the parent process is gone, in which its successor takes over, in
    seconds; set by a frontend with several workers."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        check_tls_pair(self.tls_certificate_file, self.tls_key_file)
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError(
                "--tls-client-ca-file needs --tls-certificate-file and --tls-key-file: clients "
                "show their certificates over TLS"
            )
        return self

    def management_access(self) -> ManagementAccess:
        """Return what management is called with, as the files are now.

        Raises:
            FailedPrecondition: the file of the token cannot be read.
        """
        path, setting = self.management_token_file, "SKYSAIL_FRONTEND_MANAGEMENT_TOKEN_FILE"
        token = read_token(path, setting) if path else ""
        return ManagementAccess(token, self.management_tls_ca_file)

    def http_limits(self) -> HttpLimits:
        """Return the bounds of the HTTP service."""
        return HttpLimits(
            keep_alive_s=self.http_keep_alive_s,
            head_timeout_s=self.http_head_timeout_s,
            body_timeout_s=self.http_body_timeout_s,
            drain_idle_s=self.http_drain_idle_s,
            max_connection_age_s=self.max_connection_age_s,
            max_connections=self.http_max_connections,
            max_requests=self.http_max_requests,
            max_head_bytes=self.http_max_head_kib * 1024,
            max_headers=self.http_max_headers,
        )

    def allowed_hosts(self) -> frozenset[str]:
        """Return the hosts that HTTP requests may name; none for any."""
        hosts = {host_of(each.strip()) for each in self.http_allowed_hosts.split(",")} - {""}
        if hosts:
            return frozenset() if "*" in hosts else frozenset(hosts)
        if not is_loopback(self.host):
            return frozenset()
        own = {self.host, "localhost"}
        if self.advertised_http_endpoint:
            own.add(host_of(self.advertised_http_endpoint))
        return frozenset(own)

    def read_certificates(self) -> ServerCertificates | None:
        """Return what the services show over TLS; None where they serve in the clear.

        Raises:
            FailedPrecondition: see `ServerCertificates`.
        """
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerCertificates(
            self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file
        )
