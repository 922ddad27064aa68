"""The compiled engine.

One epoll drives all sockets of an `Engine`. Python takes events in batches and answers in batches:

    loop.add_reader(engine.fileno(), on_readable)

    def on_readable():
        calls, events = engine.take()
        ...
        engine.flush(replies, messages)
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeAlias, TypeVar, final

_T = TypeVar("_T")

__version__: str

OPENED: Final = 0
"""`(OPENED, id, path, deadline, metadata)`: a peer opened a stream."""
MESSAGE: Final = 1
"""`(MESSAGE, id, message, arrival)`: a message on a stream of either role.

The arrival is the instant of the connection's last read before the message was delivered.
"""
HALF_CLOSED: Final = 2
"""`(HALF_CLOSED, id)`: the peer has sent its last message on a stream that it opened."""
CANCELLED: Final = 3
"""`(CANCELLED, id, reason)`: a call of a peer has ended without an answer.

The client cancelled it or broke a rule, the connection was lost, or the deadline passed. The event
may also follow a stream's end by `flush` while the peer has not read the last bytes.
"""
ACCEPTED: Final = 4
"""`(ACCEPTED, id, metadata)`: the server has accepted a link."""
CLOSED: Final = 5
"""`(CLOSED, id, status, text, trailers)`: a link has ended. No event follows for its id.

A connection that fails or is lost has status 14 and a text with its address and cause.
"""
WRITABLE: Final = 6
"""`(WRITABLE, id)`: a queue that had reached `stream_high_bytes` has shrunk to half."""

MetadataToSend: TypeAlias = Iterable[tuple[str, str | bytes]]
"""Keys in lower case; values of printable ASCII, or any bytes if the key ends in `-bin`."""
Call: TypeAlias = tuple[int, str, bytes, float | None, Metadata, float]
"""Id, path, message, deadline, metadata, arrival; instants are those of `time.monotonic()`.

The arrival is the instant of the connection's last read before the call was complete. The deadline
counts from the read that brought the headers.
"""
Event: TypeAlias = (
    tuple[Literal[0], int, str, float | None, Metadata]
    | tuple[Literal[1], int, bytes, float]
    | tuple[Literal[2], int]
    | tuple[Literal[3], int, str]
    | tuple[Literal[4], int, Metadata]
    | tuple[Literal[5], int, int, str, Metadata]
    | tuple[Literal[6], int]
)
"""Events differ by their first element."""
Reply: TypeAlias = (
    tuple[int, bytes] | tuple[int, int, str | None, MetadataToSend | None, bytes | None]
)
"""`(id, message)`, which is OK, or `(id, status, text, trailers, message)`."""

@final
class Limits:
    """Bounds on the cost of peers. A time of 0 turns its rule off."""

    def __new__(
        cls,
        *,
        max_message_bytes: int = 67_108_864,
        max_link_message_bytes: int = 67_108_864,
        max_header_list_bytes: int = 16_384,
        max_streams: int = 1000,
        max_connections: int = 10_000,
        max_unsent_bytes: int = 134_217_728,
        max_total_unsent_bytes: int = 1_073_741_824,
        max_untaken_bytes: int = 1_073_741_824,
        max_gzip_gain: int = 100,
        gzip_floor_bytes: int = 4_194_304,
        message_timeout_s: float = 120.0,
        stream_high_bytes: int = 1_048_576,
        stream_window: int = 1_048_576,
        connection_window: int = 8_388_608,
        gzip_from_bytes: int = 0,
        handshake_timeout_s: float = 10.0,
        keepalive_s: float = 20.0,
        keepalive_timeout_s: float = 10.0,
        max_connection_age_s: float = 0.0,
        max_connection_idle_s: float = 0.0,
    ) -> Limits:
        """Set the limits of an engine.

        Args:
            max_message_bytes: Largest message of a peer, compressed or not.
            max_link_message_bytes: Largest message on a link.
            max_header_list_bytes: Largest request headers, keys and values.
            max_streams: Concurrent calls on one connection.
            max_connections: Concurrent connections; further ones are closed at once.
            max_unsent_bytes: Bytes queued for one connection above which new calls on it are
                refused and its streams are not read. An answer or message that would exceed
                twice as much ends its call with RESOURCE_EXHAUSTED.
            max_total_unsent_bytes: Bytes queued for all connections. Above half of it, only
                connections below their equal share of the other half are served.
            max_untaken_bytes: Bytes received from peers and not taken, over all connections.
                Beyond it, the connection with the most incomplete bytes loses its largest
                incomplete message: that call ends with RESOURCE_EXHAUSTED. Above half of it in
                complete messages, so do new calls, unless their connection is below its equal
                share of the other half.
            max_gzip_gain: Largest ratio of decompression of a peer's message; a larger one ends
                its call with RESOURCE_EXHAUSTED.
            gzip_floor_bytes: Decompressed size that any message may have.
            message_timeout_s: Time in which a unary call, or a message on a peer's stream, must
                arrive; then its call ends with DEADLINE_EXCEEDED.
            stream_high_bytes: `unsent` of a stream above which a `WRITABLE` is owed.
            stream_window: Flow-control window of a stream, and the bytes delivered without
                acknowledgement before its peer must wait.
            connection_window: Flow-control window of a connection.
            gzip_from_bytes: Smallest answer that is compressed for clients that accept gzip; 0 for
                none. Requests in gzip are always accepted.
            handshake_timeout_s: Time from connecting to the end of the HTTP/2 handshake, TLS
                included.
            keepalive_s: Silence after which a peer is pinged.
            keepalive_timeout_s: Time that the peer has to answer. A peer that reads none of its
                queued bytes is closed after the sum of both.
            max_connection_age_s: Age at which a client must connect again (GOAWAY), a tenth
                more or less by chance; its open calls end first.
            max_connection_idle_s: Time without a call after which a client must connect again.

        Raises:
            ValueError: a value is out of its range.
        """

@final
class ServerTls:
    """The certificate of a listener; clients must agree on HTTP/2 by ALPN."""

    def __new__(
        cls, cert_pem: bytes, key_pem: bytes, client_ca_pem: bytes | None = None
    ) -> ServerTls:
        """Serve with a certificate chain and its key.

        Args:
            cert_pem: Certificate chain, own certificate first.
            key_pem: Key of the certificate.
            client_ca_pem: If given, only clients with a certificate signed by it are served.

        Raises:
            ValueError: a certificate or key is invalid, or they do not match.
        """

    def renew(self, cert_pem: bytes, key_pem: bytes, client_ca_pem: bytes | None = None) -> None:
        """Use another certificate for new connections; existing ones continue.

        Args:
            cert_pem: Certificate chain, as in the constructor.
            key_pem: Key of the certificate.
            client_ca_pem: Certificates that clients must be signed by.

        Raises:
            ValueError: a certificate or key is invalid, or they do not match; the old ones stay.
        """

@final
class ClientTls:
    """The trusted certificates and own certificate of a link."""

    def __new__(
        cls,
        ca_pem: bytes,
        cert_pem: bytes | None = None,
        key_pem: bytes | None = None,
        server_name: str | None = None,
    ) -> ClientTls:
        """Trust the certificates of `ca_pem`.

        Args:
            ca_pem: Certificates of authorities.
            cert_pem: Own certificate chain, for mutual TLS.
            key_pem: Key of the certificate.
            server_name: Name that the peer's certificate must have; by default the endpoint's
                host, and `localhost` for a unix socket.

        Raises:
            ValueError: a certificate, key or name is invalid, or they do not match.
        """

@final
class Metadata:
    """The application's headers of a call, decoded on demand.

    Headers of the protocol are left out, and so are `-bin` values that are not base64.
    """

    def pairs(self) -> list[tuple[str, str | bytes]]:
        """Return all pairs; the values of one key are in order."""

    def as_dict(self) -> dict[str, str | bytes]:
        """Return the pairs; a repeated key has its last value."""

    def get(self, key: str, default: _T | None = None) -> str | bytes | _T | None:
        """Return the last value of a key."""

    def __len__(self) -> int:
        """Return the number of pairs."""

@final
class Engine:
    """A gRPC server and client on one epoll.

    Inline, `take` and `flush` do all the work on the calling thread. An engine with its own thread
    reads, and answers health checks, while Python is busy; that thread never takes the interpreter.
    Every method may be called from any thread, and never waits for a peer. Ids are unique in an
    engine and never reused; methods ignore the id of an ended call. A forked child must not use the
    engine of its parent.
    """

    def __new__(cls, limits: Limits | None = None, *, has_own_thread: bool = False) -> Engine:
        """Create an engine without listeners and links.

        Raises:
            OSError: the process has no descriptor left.
        """

    def fileno(self) -> int:
        """Return a descriptor that is readable when `take` has something to do.

        Raises:
            ValueError: the engine is closed.
        """

    def listen(
        self,
        address: str,
        *,
        unary: Sequence[str] = (),
        streams: Sequence[str] = (),
        shares_port: bool = False,
        tls: ServerTls | None = None,
    ) -> int:
        """Serve the given paths on an address; other paths get UNIMPLEMENTED.

        Args:
            address: `host:port`, `[::1]:port` or `unix:/path`; port 0 for any. An abandoned
                unix path is replaced. `drain` and `close` remove a unix path.
            unary: Full paths of calls that `take` returns complete, in `calls`.
            streams: Full paths of calls of any kind, as events `OPENED`, `MESSAGE` ….
            shares_port: Lets several processes listen on one port (SO_REUSEPORT).
            tls: Encrypts the connections.

        Returns:
            The port; 0 for a unix path.

        Raises:
            OSError: the address cannot be bound; a live listener keeps its address.
            ValueError: the address is invalid.
            RuntimeError: the engine is closed.
        """

    def open(
        self,
        endpoint: str,
        path: str,
        metadata: MetadataToSend | None = None,
        tls: ClientTls | None = None,
        *,
        acknowledges_itself: bool = True,
    ) -> int:
        """Open a link, a bidirectional stream on a separate connection, and return its id.

        The name is resolved and connected in the background; messages may be sent at once
        and are queued. Events report the progress: `ACCEPTED`, `MESSAGE`, `WRITABLE` and, unless
        `cancel` ends the link, one `CLOSED`.

        Args:
            endpoint: `host:port`, `[::1]:port` or `unix:/path`.
            path: Full path of the method.
            metadata: Request headers of the application.
            tls: Encrypts the connection.
            acknowledges_itself: Whether taking a message acknowledges it.

        Raises:
            ValueError: the endpoint, path or metadata is invalid.
            RuntimeError: the engine is closed.
        """

    def take(self, timeout_ms: int = 0) -> tuple[list[Call], list[Event]]:
        """Return the calls and events since the last `take`, both in order.

        An inline engine copies at most 4 MiB of messages above 1 MiB in one `take`. A larger
        message is returned by a later `take`, with later events of its stream behind it. A call
        that was cancelled after it arrived is in both lists.

        Args:
            timeout_ms: Time to wait for an event, without the interpreter; below 0 without limit.
                The result may be empty before the time has passed.

        Raises:
            OSError: the engine has panicked.
        """

    def wake(self) -> None:
        """Wake the `take` that waits on another thread, or else the next one.

        Only an engine with its own thread can be woken.
        """

    def flush(
        self,
        replies: Iterable[Reply],
        messages: Iterable[tuple[int, bytes]] | None = None,
        acknowledged: Iterable[tuple[int, int]] | None = None,
    ) -> None:
        """Acknowledge, send messages and end calls, in this order, and write to the sockets.

        Call it once for each turn of the event loop. Large messages are not copied.

        Args:
            replies: Answers that end calls of peers. A stream's message is sent before its end.
            messages: Ids of streams of either role, each with a message.
            acknowledged: Ids and sizes, as in `acknowledge`.

        Raises:
            TypeError: a tuple is malformed; nothing was sent.
            ValueError: trailers are invalid; nothing was sent.
            OSError: the engine has panicked.
        """

    def accept(self, id: int) -> None:
        """Send the response headers of a peer's stream, so that its client sees it accepted.

        By default the headers are sent with the first message.
        """

    def acknowledge(self, id: int, n_bytes: int) -> None:
        """Acknowledge a message of `n_bytes`, so that the peer of its stream may send more.

        Every `MESSAGE` of a peer's stream must be acknowledged once. The stream's window bounds
        unacknowledged messages, the empty ones too. Messages beyond it wait, and then the peer.
        """

    def unsent(self, id: int) -> int:
        """Return the bytes queued on a stream that no socket buffer has taken."""

    def finish_sending(self, id: int) -> None:
        """Half-close a link after its queued messages."""

    def cancel(self, id: int) -> None:
        """Reset a link, or a call of a peer, without an event."""

    def set_health(self, service: str, status: int) -> None:
        """Set the status of a service for `grpc.health.v1.Health`; `""` is the whole server.

        The first status makes the engine answer Check and Watch on all listeners, except listeners
        that serve those paths themselves. Unknown services get NOT_FOUND, watchers SERVICE_UNKNOWN.

        Args:
            service: Full name of the service.
            status: A `HealthCheckResponse.ServingStatus`: 1 SERVING, 2 NOT_SERVING.

        Raises:
            ValueError: the status is not from 0 to 127.
        """

    def drain(self) -> None:
        """Stop accepting and ask peers to go (GOAWAY); open calls continue.

        The application must end streams of peers. Links stay. The drain is complete when
        `counters()["open_calls"]` is 0, or counts only links.
        """

    def close(self) -> None:
        """Close all connections, the thread and the descriptors at once, without events.

        The method may be called again. A closed engine returns no events and drops answers.
        """

    def counters(self) -> dict[str, int]:
        """Return totals since the start, and current counts.

        Totals: calls, streams, messages_in, messages_out, cancelled, deadline_exceeded, refused,
        health_checks, wake_ups, connections_accepted, connections_refused, connection_errors,
        keepalive_timeouts, bytes_in, bytes_out. Current: connections, open_calls, unsent_bytes,
        untaken_bytes. A closed engine returns its last counts.
        """
