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
    """Endpoint of management, as host:port or unix:/path; the source of the routes."""

    management_tls_ca_file: Path | None = None
    """Certificate authorities for the certificate of management, in PEM; no TLS if unset."""

    management_token_file: Path | None = None
    """File with the token for management; read at each connection."""

    frontend_id: str = ""
    """Name of this frontend, unique in the cluster; host name and process id if empty."""

    host: Host = "127.0.0.1"
    """Address to listen on; `::` for all addresses of IPv6 and IPv4."""

    grpc_port: Port = 8001
    """Port of the gRPC services."""

    http_port: Port = 8000
    """Port of the HTTP service."""

    advertised_grpc_endpoint: str = ""
    """Endpoint of the gRPC services for clients, as host:port. If empty: the address to listen on,
    or loopback if that stands for all addresses."""

    advertised_http_endpoint: str = ""
    """Endpoint of the HTTP service for clients, as host:port. If empty: the address to listen on,
    or loopback if that stands for all addresses."""

    transport: TransportName = Field("auto", validation_alias=VARIABLE)
    """Implementation of gRPC: `native` (the package skysail-transport), `grpc` (grpc.aio), or
    `auto` (native if that package is installed)."""

    tls_certificate_file: Path | None = None
    """Certificate chain of the gRPC and HTTP services, in PEM; no TLS if unset. The file is read
    again when it changes."""

    tls_key_file: Path | None = None
    """Private key of the certificate, in PEM without a passphrase."""

    tls_client_ca_file: Path | None = None
    """Certificate authorities for clients, in PEM (mutual TLS): clients without a certificate of
    one of them are refused."""

    tls_check_every_s: float = Field(10.0, gt=0)
    """Time between checks of the TLS files for changes."""

    workers: int = Field(1, ge=1, le=256)
    """Number of processes that share the ports; each is linked to every replica."""

    shares_ports: bool = False
    """Share the ports with other processes; set by a frontend with several workers."""

    metrics_port: Port = 8002
    """Port of the metrics page for Prometheus and of the probes /live and /ready, without TLS."""

    snapshot_file: Path | None = None
    """File of the latest routes, with which a frontend starts while management is unavailable."""

    report_every_s: float = Field(15.0, gt=0)
    """Time between reports of learned latencies to management, which stores them."""

    server_name: str = "skysail"
    """Name in the server metadata of the Open Inference Protocol."""

    has_triton_errors: bool = False
    """Use the codes and texts of Triton for shed queries of the Open Inference Protocol."""

    default_timeout_s: float = Field(60.0, gt=0)
    """Time limit of a query if neither its caller nor its application sets one."""

    max_queue_size: int = Field(10_000, ge=1)
    """Limit of queued rows for each model version that sets none; more are refused."""

    max_queue_mib: int = Field(1024, ge=1)
    """Memory limit for the inputs of unsettled queries of all versions, in MiB; more are refused. A
    single query may be larger."""

    cache_mib: int = Field(256, ge=0)
    """Memory limit of the prediction cache, in MiB."""

    max_message_mib: int = Field(64, ge=1, le=2047)
    """Largest message or HTTP body."""

    http_keep_alive_s: int = Field(75, ge=1)
    """Time after which an idle HTTP connection is closed. It must be longer than that of a proxy in
    front, which would otherwise send requests on closed connections."""

    http_head_timeout_s: float = Field(10.0, gt=0)
    """Time limit for the head of an HTTP request, and for the first byte of a connection."""

    http_body_timeout_s: float = Field(60.0, gt=0)
    """Time limit for the body of an HTTP request, and for the client to read a response."""

    http_max_connections: int = Field(10_000, ge=1)
    """Limit of open HTTP connections; more are refused with status 503."""

    http_max_requests: int = Field(10_000, ge=1)
    """Limit of concurrent HTTP requests; more are refused with status 503."""

    http_max_head_kib: int = Field(64, ge=1)
    """Size limit for the head of an HTTP request, in KiB; larger heads are refused with status
    431."""

    http_max_headers: int = Field(100, ge=1)
    """Limit of headers of an HTTP request; more are refused with status 431."""

    http_max_memory_mib: int = Field(256, ge=1)
    """Memory limit for the bodies of all HTTP requests, in MiB, at least four times the largest
    body; more requests are refused with status 503. Unread responses may take the same amount."""

    http_allowed_hosts: str = ""
    """Host names that HTTP requests may use besides IP addresses, separated by commas; `*` for any.
    If empty, a frontend on a loopback address accepts the names of loopback and its advertised
    endpoint, because a web page can make a browser call 127.0.0.1 by any other name. A frontend on
    other addresses accepts any name."""

    http_drain_idle_s: float = Field(5.0, ge=0)
    """Time for which a draining frontend keeps idle HTTP connections; a client that sends a request
    in it gets a response that closes the connection."""

    max_stream_queries: int = Field(1000, ge=1)
    """Limit of unanswered queries of one stream; the frontend stops reading the stream at it."""

    max_connection_age_s: float = Field(0.0, ge=0, le=30_000_000)
    """Age at which a connection is closed, randomized by 10 %, so that a new frontend receives its
    share of connections. Queries in flight are answered before; over HTTP the next response closes
    the connection. 0 for never; the manifests for Kubernetes set 300."""

    drain_timeout_s: float = Field(10.0, ge=0)
    """Time limit to answer queries in flight before the process ends."""

    watch_parent: bool = False
    """Stop when standard input ends, that is, when the parent process has ended."""

    serve_on_s: float = Field(0.0, ge=0)
    """Time to keep serving after the end of the parent process, in which its successor takes over;
    set by a frontend with several workers."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        check_tls_pair(self.tls_certificate_file, self.tls_key_file)
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ValueError(
                "--tls-client-ca-file needs --tls-certificate-file and --tls-key-file: client "
                "certificates need TLS"
            )
        return self

    def management_access(self) -> ManagementAccess:
        """Return the credentials for management, read from their files.

        Raises:
            FailedPrecondition: the token file cannot be read.
        """
        path, setting = self.management_token_file, "SKYSAIL_FRONTEND_MANAGEMENT_TOKEN_FILE"
        token = read_token(path, setting) if path else ""
        return ManagementAccess(token, self.management_tls_ca_file)

    def http_limits(self) -> HttpLimits:
        """Return the limits of the HTTP service."""
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
        """Return the host names that HTTP requests may use; an empty set for any."""
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
        """Return the certificates of the services; None to serve without TLS.

        Raises:
            FailedPrecondition: see `ServerCertificates`.
        """
        if self.tls_certificate_file is None or self.tls_key_file is None:
            return None
        return ServerCertificates(
            self.tls_certificate_file, self.tls_key_file, self.tls_client_ca_file
        )
