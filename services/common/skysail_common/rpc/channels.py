"""gRPC channels of all clients of Skysail, with their limits and keep-alive."""

from typing import NamedTuple

import grpc
import grpc.aio

from skysail_common.errors import FailedPrecondition, SkysailError, Status, Unavailable

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message either way, unless a setting changes it."""

MAX_LINK_MESSAGE_BYTES = 1024 * 1024 * 1024
"""Largest batch or result between frontends and model servers: a batch of large queries."""

LINK_TIMEOUT_S = 5.0
"""Longest time until a peer accepts a link."""

MIN_PING_INTERVAL_S = 4.0
"""Shortest interval between pings of an idle connection that servers accept."""


class KeepAlive(NamedTuple):
    """Detection of a peer that vanished without closing its connection."""

    idle_s: float
    """Silence after which the peer gets a ping; at least `MIN_PING_INTERVAL_S`."""
    timeout_s: float
    """Longest time until the answer to a ping."""


KEEP_ALIVE = KeepAlive(20.0, 10.0)
"""Keep-alive of clients and servers, unless a caller changes it."""

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name this option bounds the time of an attempt; a busy peer needs some time.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def keep_alive_options(keep_alive: KeepAlive) -> list[tuple[str, int]]:
    """Return the options of a channel or server that pings its peers."""
    return [
        ("grpc.keepalive_time_ms", int(keep_alive.idle_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(keep_alive.timeout_s * 1000)),
        # Newer grpcio waits for the longer of both timeouts, and the default of this one is a minute.
        ("grpc.http2.ping_timeout_ms", int(keep_alive.timeout_s * 1000)),
        # The default allows only two pings on a stream without messages.
        ("grpc.http2.max_pings_without_data", 0),
    ]


def open_channel(
    endpoint: str,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    credentials: grpc.ChannelCredentials | None = None,
    keep_alive: KeepAlive = KEEP_ALIVE,
    server_name: str = "",
) -> grpc.aio.Channel:
    """Return a channel to `host:port` or `unix:/path`, which connects on first use.

    Args:
        endpoint: Endpoint of the peer.
        max_message_bytes: Largest message either way.
        credentials: Credentials of TLS; no TLS if None.
        keep_alive: Detection of a lost peer while a call is open.
        server_name: Name that the peer's certificate must have; the host of the endpoint if empty.
    """
    options: list[tuple[str, int | str]] = [
        *_OPTIONS,
        *keep_alive_options(keep_alive),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    ]
    if endpoint.startswith("unix:"):
        # Over a unix socket grpcio would send the percent-encoded path as :authority, which
        # strict HTTP/2 servers refuse.
        options.append(("grpc.default_authority", "localhost"))
    else:
        # A proxy for the web must not receive calls within the cluster.
        options.append(("grpc.enable_http_proxy", 0))
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    if credentials is not None:
        return grpc.aio.secure_channel(endpoint, credentials, options)
    return grpc.aio.insecure_channel(endpoint, options)


def link_refused(endpoint: str, reason: object, status: int = Status.UNAVAILABLE) -> SkysailError:
    """Return the error for a link that cannot be opened, with the status of the peer's refusal."""
    is_final = status == Status.FAILED_PRECONDITION
    error = FailedPrecondition if is_final else Unavailable
    return error(f"{endpoint} does not take batches: {reason}")
