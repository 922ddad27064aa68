"""The compiled engine.

One epoll drives all sockets of an `Engine`. Python is told what happened in batches, and answers
in batches:

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
"""`(MESSAGE, id, message, arrival)`: a message on a stream, of either side.

The arrival is the instant at which its connection was last read before the message was handed over.
"""
HALF_CLOSED: Final = 2
"""`(HALF_CLOSED, id)`: the peer sends no more on a stream it opened."""
CANCELLED: Final = 3
"""`(CANCELLED, id, reason)`: a call or stream of a peer is over without an answer.

Its client cancelled it, its connection was lost, its deadline passed, or it broke a rule. May
also come for a stream that was ended by `flush` while its last bytes are not read.
"""
ACCEPTED: Final = 4
"""`(ACCEPTED, id, metadata)`: the peer has taken a stream of ours."""
CLOSED: Final = 5
"""`(CLOSED, id, status, text, trailers)`: a stream of ours is over. Nothing follows for its id.

A connection that cannot be made, or is lost, is status 14 with a text that says where and why.
"""
WRITABLE: Final = 6
"""`(WRITABLE, id)`: a stream's queue had reached `stream_high_bytes` and is down to half."""

MetadataToSend: TypeAlias = Iterable[tuple[str, str | bytes]]
"""Keys in lower case; values of printable ASCII, or any bytes where the key ends in `-bin`."""
Call: TypeAlias = tuple[int, str, bytes, float | None, Metadata, float]
"""Id, path, message, deadline, metadata, arrival; instants are those of `time.monotonic()`.

The arrival is the instant at which the connection was last read before the call was whole; the
deadline counts from the read that brought the headers.
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
"""Told apart by the first part."""
Reply: TypeAlias = (
    tuple[int, bytes] | tuple[int, int, str | None, MetadataToSend | None, bytes | None]
)
"""`(id, message)`, which is OK, or `(id, status, text, trailers, message)`."""

@final
class Limits:
    """What peers may cost. A time of 0 turns its rule off."""

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
            max_message_bytes: Largest message that is taken, as it comes and decompressed.
            max_link_message_bytes: The same for messages on streams of ours.
            max_header_list_bytes: Largest headers that are taken, keys and values.
            max_streams: Calls at a time on one connection.
            max_connections: Connections at a time; further ones are closed at once.
            max_unsent_bytes: Bytes queued for one connection above which new calls on it are
                refused and its streams are not read. An answer or message that would lift it
                above twice as much ends its call with RESOURCE_EXHAUSTED.
            max_total_unsent_bytes: The same over all connections. Above half of it, only
                connections that hold no more than their equal share of the other half are served.
            max_untaken_bytes: Bytes that peers have sent and that were not taken, over all
                connections. Beyond it, the connection that holds most of messages that are not
                whole loses the largest of them: its call ends with RESOURCE_EXHAUSTED. Above half
                of it in whole ones, so do new calls, unless their connection holds no more than
                its equal share of the other half.
            max_gzip_gain: Times its size to which a message of a peer in gzip may be decompressed;
                a larger one ends its call with RESOURCE_EXHAUSTED.
            gzip_floor_bytes: Size to which any message may be decompressed.
            message_timeout_s: Time that a unary call, or a message on a stream of a peer, may take
                to come whole; then its call ends with DEADLINE_EXCEEDED.
            stream_high_bytes: `unsent` of a stream from which a `WRITABLE` is owed.
            stream_window: Flow-control window of a stream, and the bytes delivered and not
                acknowledged up to which its peer may go on.
            connection_window: Flow-control window of a connection.
            gzip_from_bytes: Answers from this size on are compressed, for clients that take
                gzip; 0 for never. Requests in gzip are always taken.
            handshake_timeout_s: From connecting to the first word of HTTP/2, TLS included.
            keepalive_s: Silence after which a peer is pinged.
            keepalive_timeout_s: Time it has to answer. A peer that takes nothing of what is
                sent to it is closed after the sum of both.
            max_connection_age_s: Age at which a client is told to connect again (GOAWAY), a tenth
                more or less by chance; its calls under way end first.
            max_connection_idle_s: Time without a call after which it is.

        Raises:
            ValueError: a value is out of its range.
        """

@final
class ServerTls:
    """What a listener shows to clients; HTTP/2 is agreed by ALPN, or there is no connection."""

    def __new__(
        cls, cert_pem: bytes, key_pem: bytes, client_ca_pem: bytes | None = None
    ) -> ServerTls:
        """Serve with a certificate chain and its key.

        Args:
            cert_pem: The chain, own certificate first.
            key_pem: Its key.
            client_ca_pem: If given, only clients with a certificate of it are served.

        Raises:
            ValueError: they are no certificate or key, or do not match.
        """

    def renew(self, cert_pem: bytes, key_pem: bytes, client_ca_pem: bytes | None = None) -> None:
        """Show these to connections that come from now on; those that are there go on.

        Args:
            cert_pem: As of the constructor.
            key_pem: Likewise.
            client_ca_pem: Likewise.

        Raises:
            ValueError: they are no certificate or key, or do not match; nothing has changed.
        """

@final
class ClientTls:
    """What a link checks and shows."""

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
            key_pem: Its key.
            server_name: Name the peer's certificate must be for; without it that of the endpoint,
                and `localhost` for a unix socket.

        Raises:
            ValueError: they are no certificate, key or name, or do not match.
        """

@final
class Metadata:
    """The application's headers of a call, decoded when they are asked for.

    The protocol's own are left out, and so are `-bin` values that are not base64.
    """

    def pairs(self) -> list[tuple[str, str | bytes]]:
        """Return all pairs; those of one key in the order they came."""

    def as_dict(self) -> dict[str, str | bytes]:
        """Return the pairs; where a key came twice, its last value."""

    def get(self, key: str, default: _T | None = None) -> str | bytes | _T | None:
        """Return the last value of a key."""

    def __len__(self) -> int:
        """Return how many pairs there are."""

@final
class Engine:
    """A gRPC server and client on one epoll.

    Inline, `take` and `flush` do all the work on the calling thread. With its own thread the
    reading, and the answers of the health service, go on while Python is busy; that thread never
    asks for the interpreter. Every method may be called from any thread, and never waits for a
    peer. Ids are of this engine alone and never come again; what is said of an id whose call is
    over is ignored. A forked child must not use the engine of its parent.
    """

    def __new__(cls, limits: Limits | None = None, *, has_own_thread: bool = False) -> Engine:
        """Begin with neither listener nor link.

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
        """Serve on an address; other paths than these are answered UNIMPLEMENTED.

        Args:
            address: `host:port`, `[::1]:port` or `unix:/path`; port 0 for any. A unix path on
                which nobody listens any more is replaced, and removed by `drain` and `close`.
            unary: Full paths whose calls come whole, as `calls` of `take`.
            streams: Full paths whose calls come as `OPENED`, `MESSAGE` …, of whichever kind.
            shares_port: Lets several processes listen on one port (SO_REUSEPORT).
            tls: Encrypts the connections.

        Returns:
            The port; 0 for a unix path.

        Raises:
            OSError: the address cannot be had; that of a live listener is not taken over.
            ValueError: it is no address.
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
        """Begin a bidirectional stream on a connection of its own, and return its id.

        Connecting, and looking up a name, go on in the background; messages may be sent at once
        and are queued. What becomes of it comes as `ACCEPTED`, `MESSAGE`, `WRITABLE` and, in
        any case but `cancel`, one `CLOSED`.

        Args:
            endpoint: `host:port`, `[::1]:port` or `unix:/path`.
            path: Full path of the method.
            metadata: Sent with it.
            tls: Encrypts the connection.
            acknowledges_itself: Whether taking a message acknowledges it.

        Raises:
            ValueError: the endpoint, path or metadata cannot be.
            RuntimeError: the engine is closed.
        """

    def take(self, timeout_ms: int = 0) -> tuple[list[Call], list[Event]]:
        """Return what has happened since the last time, both lists in order.

        An engine without a thread of its own copies at most 4 MiB of messages above 1 MiB in one
        `take`: a larger one is returned by a later one, with what follows it on its stream.
        A call that was cancelled since it came is in both lists.

        Args:
            timeout_ms: Time to wait, without the interpreter, if there is nothing; below 0 for
                however long. May return early with nothing.

        Raises:
            OSError: the engine has failed.
        """

    def wake(self) -> None:
        """Have the `take` that waits on another thread, or the next one, return at once.

        Of an engine with its own thread only.
        """

    def flush(
        self,
        replies: Iterable[Reply],
        messages: Iterable[tuple[int, bytes]] | None = None,
        acknowledged: Iterable[tuple[int, int]] | None = None,
    ) -> None:
        """Acknowledge, send messages, end calls, in this order, and write what the sockets take.

        Meant to be called once for a turn of the event loop. A large message is not copied.

        Args:
            replies: Ends calls and streams of peers. A stream's message goes before its end.
            messages: Ids of streams, of either side, and what to send on them.
            acknowledged: As of `acknowledge`.

        Raises:
            TypeError: a tuple is not of the form; then nothing of the three was done.
            ValueError: trailers cannot be sent; likewise.
            OSError: the engine has failed.
        """

    def accept(self, id: int) -> None:
        """Send the headers of a peer's stream, which tells it so (`ACCEPTED`).

        Otherwise they go with the first message.
        """

    def acknowledge(self, id: int, n_bytes: int) -> None:
        """Let the peer of a stream go on: a message of `n_bytes` is done with.

        Every `MESSAGE` of a stream of a peer wants this once. Messages that are not done with are
        bounded by the stream's window, the empty ones too; what comes beyond waits, and then the
        peer.
        """

    def unsent(self, id: int) -> int:
        """Return the bytes queued on a stream that no socket buffer has taken."""

    def finish_sending(self, id: int) -> None:
        """End our side of a stream of ours, behind what is queued."""

    def cancel(self, id: int) -> None:
        """End a stream of ours, or a call of a peer, by a reset; no event tells of it."""

    def set_health(self, service: str, status: int) -> None:
        """Have `grpc.health.v1.Health` say a status of a service; `""` is the whole server.

        Once one is set, the engine answers Check and Watch on all listeners by itself, unless a
        listener's own paths name them. Unknown services: NOT_FOUND, to watchers SERVICE_UNKNOWN.

        Args:
            service: Full name.
            status: 1 SERVING, 2 NOT_SERVING; of `HealthCheckResponse.ServingStatus`.

        Raises:
            ValueError: the status is not from 0 to 127.
        """

    def drain(self) -> None:
        """Accept nothing more and tell peers to go (GOAWAY); calls under way go on.

        Streams of peers are to be ended by the application. Links stay. It is done when
        `counters()["open_calls"]` says so.
        """

    def close(self) -> None:
        """Close everything at once, thread and descriptors included; no events tell of it.

        May be called again. Afterwards `take` returns nothing and answers go nowhere.
        """

    def counters(self) -> dict[str, int]:
        """Return totals since the beginning, and what is now.

        Totals: calls, streams, messages_in, messages_out, cancelled, deadline_exceeded, refused,
        health_checks, wake_ups, connections_accepted, connections_refused, connection_errors,
        keepalive_timeouts, bytes_in, bytes_out. Now: connections, open_calls, unsent_bytes,
        untaken_bytes. After `close`, those of the moment before.
        """
