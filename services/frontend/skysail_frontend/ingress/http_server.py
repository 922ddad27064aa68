"""The HTTP server of both REST doors, on the event loop of the frontend."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from http import HTTPStatus
from math import ceil

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from skysail_common.clock import MONOTONIC, Clock
from skysail_common.errors import SkysailError, shown, without_frames
from skysail_common.process.sockets import bound_socket
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.statuses import as_skysail_error
from skysail_frontend.ingress.http import http_status, json_response
from skysail_frontend.ingress.http_connection import HttpConfig, HttpConnection
from skysail_frontend.ingress.http_hosts import host_of, is_address
from skysail_frontend.ingress.http_limits import HttpLimits, HttpMemory, overloaded
from skysail_frontend.ingress.rest_clipper import clipper_error

log = logging.getLogger(__name__)

_BACKLOG = 1024

_LOOK_EVERY_S = 0.05
"""Time between two checks whether all clients have left."""

_MAX_ERROR_CHARS = 4096
_MAX_AUTHORITY = 300
_MAX_HOSTS = 100
"""Cached values of the header `Host`."""


def _served(routes: Sequence[BaseRoute]) -> str:
    """Return where to go on a port with these routes, for requests of other paths."""
    paths = [route.path for route in routes if isinstance(route, Route)]
    if any(path.startswith("/v2") for path in paths):
        return "predictions are at POST /v2/models/{model}/infer and POST /{application}/predict"
    return f"this port has {', '.join(paths)}"


def _detail(request: Request, error: HTTPException, served: str) -> str:
    path = shown(request.url.path)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"nothing is served at {path}; {served}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{path} does not support {request.method}; use {allowed}"
    return error.detail


def http_app(routes: Sequence[BaseRoute], allowed_hosts: Collection[str] = ()) -> ASGIApp:
    """Return the application; it answers each error of a handler as JSON.

    Args:
        routes: Paths and their handlers; a trailing slash makes no difference.
        allowed_hosts: Hosts that requests may name, without ports, in addition to IP addresses; any
            if empty.
    """
    served = _served(routes)

    async def on_skysail_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, SkysailError)
        return _error_response(request, without_frames(error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = json_response({"error": _detail(request, error, served)}, error.status_code)
        # Status 405 needs the header `Allow`.
        response.headers.update(error.headers or {})
        return response

    async def on_mistake(request: Request, error: Exception) -> Response:
        return _error_response(request, as_skysail_error(error, request.url.path))

    app = Starlette(
        routes=list(routes),
        exception_handlers={
            SkysailError: on_skysail_error,
            HTTPException: on_http_error,
            Exception: on_mistake,
        },
    )

    @lru_cache(_MAX_HOSTS)
    def is_served(authority: str) -> bool:
        host = host_of(authority)
        # Probes by HTTP/1.0 name no host, browsers always do. Probes of Kubernetes and Prometheus
        # name the address of the pod.
        return not host or host in allowed_hosts or is_address(host)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if allowed_hosts and not is_served(authority := _authority(scope)):
            host = host_of(authority)
            text = f"host {host[:200]!r} is not served here; see the setting http_allowed_hosts"
            await json_response({"error": text}, 421)(scope, receive, send)
            return
        path = scope["path"]
        if path.endswith("/"):
            # A redirect would need the address by which clients reach this server.
            scope["path"] = path.rstrip("/") or "/"
        await app(scope, receive, send)

    return serve


def _authority(scope: Scope) -> str:
    """Return the header `Host`, cut to the length of the longest possible name."""
    for name, value in scope["headers"]:
        if name == b"host":
            return str(value[:_MAX_AUTHORITY].decode("latin-1"))
    return ""


def _error_response(request: Request, error: SkysailError) -> Response:
    path = request.url.path
    message = error.message
    if len(message) > _MAX_ERROR_CHARS:
        message = f"{message[:_MAX_ERROR_CHARS]}…"
    if path == "/v2" or path.startswith("/v2/"):
        response = json_response({"error": message}, http_status(error))
    else:
        response = json_response(clipper_error(error) | {"cause": message}, http_status(error))
    backlog = error.backlog
    if backlog is not None:
        if backlog.wait_s is not None:
            # Both are rounded up, because the server refuses a client that retries too early.
            response.headers["retry-after"] = str(max(1, ceil(backlog.wait_s)))
            response.headers["retry-after-ms"] = str(max(1, ceil(backlog.wait_s * 1000)))
        response.headers["shed-reason"] = backlog.reason
    return response


async def _busy_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request because too many are in flight."""
    error = overloaded("too_many_requests", "cannot take the request: too many are in flight")
    await _error_response(Request(scope), error)(scope, receive, send)


def _context_of(certificates: ServerCertificates) -> ssl.SSLContext:
    """Return a TLS context that presents the current certificates to each new connection."""
    context = certificates.context

    def choose(connection: ssl.SSLObject, *_: object) -> None:
        # OpenSSL calls this for each handshake, even if the client names no server.
        if connection.context is not certificates.context:
            connection.context = certificates.context

    context.sni_callback = choose
    return context


class _ServerConfig(HttpConfig):
    """A configuration with a given TLS context; uvicorn's own context ignores renewals."""

    context: ssl.SSLContext | None = None

    def load(self) -> None:
        super().load()
        self.ssl = self.context


class _UvicornServer(uvicorn.Server):
    """A server that leaves signals to its process, and drains before it closes."""

    config: HttpConfig

    def _connection(self) -> HttpConnection:
        return HttpConnection(self.config, self.server_state, self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop, context = asyncio.get_running_loop(), self.config.ssl
        # The default time limit of a TLS handshake is a minute, which is too long for silent clients.
        timeout_s = None if context is None else self.config.limits.head_timeout_s
        self.servers = [
            await loop.create_server(
                self._connection,
                sock=each,
                ssl=context,
                backlog=_BACKLOG,
                ssl_handshake_timeout=timeout_s,
            )
            for each in sockets or []
        ]
        self.started = True

    def drain(self) -> None:
        """Announce the close of each connection in its next answer."""
        self.config.is_draining = True
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve all connections until the announced closes, then close the rest."""
        loop, config = asyncio.get_running_loop(), self.config
        connections = self.server_state.connections
        grace_s = config.timeout_graceful_shutdown or 0
        drained_by = loop.time() + grace_s
        idle_until = loop.time() + min(config.limits.drain_idle_s, grace_s)
        self.drain()
        # uvicorn keeps its connections in a plain set, which has no event for changes.
        while connections and loop.time() < idle_until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        # The kernel resets connections in the backlog, so they are accepted and served.
        arrivals = [
            asyncio.create_task(self._serve_accepted(accepted), name="serve accepted connection")
            for each in sockets or []
            for accepted in _accepted(each)
        ]
        config.timeout_graceful_shutdown = max(1, ceil(drained_by - loop.time()))
        await super().shutdown(sockets)
        for arrival in arrivals:
            arrival.cancel()
        await asyncio.gather(*arrivals, return_exceptions=True)

    async def _serve_accepted(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._connection, accepted, ssl=self.config.ssl)


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections in the backlog of a listener."""
    for _ in range(_BACKLOG):
        try:
            accepted, _address = listener.accept()
        except OSError:
            return
        accepted.setblocking(False)
        yield accepted


class HttpServer:
    """One HTTP server on one address."""

    def __init__(
        self,
        app: ASGIApp,
        grace_s: float,
        *,
        limits: HttpLimits | None = None,
        memory: HttpMemory | None = None,
        clock: Clock = MONOTONIC,
        shares_port: bool = False,
        certificates: ServerCertificates | None = None,
    ) -> None:
        """Prepare the server; `bind` opens its address.

        Args:
            app: Application to serve.
            grace_s: Longest time for requests in flight at the stop.
            limits: Limits of connections and requests.
            memory: Memory of requests, which several servers may share.
            clock: Clock for the arrival of requests.
            shares_port: True to share the port with other processes.
            certificates: Certificates of TLS; no TLS if None.
        """
        self._shares_port = shares_port
        limits = limits or HttpLimits()
        config = _ServerConfig(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            interface="asgi3",
            # No handler uses the address or the scheme of the client.
            proxy_headers=False,
            timeout_keep_alive=limits.keep_alive_s,
            timeout_graceful_shutdown=max(1, int(grace_s)),
            server_header=False,
        )
        config.limits = limits
        config.memory = memory or HttpMemory()
        config.clock = clock
        config.busy_app = _busy_app
        if certificates is not None:
            config.context = _context_of(certificates)
        self._server = _UvicornServer(config)
        self._socket: socket.socket | None = None

    def bind(self, host: str, port: int) -> int:
        """Bind to the address and return its port.

        Raises:
            FailedPrecondition: the address is in use, or not an address of this machine.
        """
        listener = bound_socket(host, port, shares_port=self._shares_port)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        self._socket = listener
        return int(listener.getsockname()[1])

    async def serve(self) -> None:
        """Serve until `stop`."""
        assert self._socket is not None
        await self._server.serve([self._socket])

    def stop(self) -> None:
        """Start the drain, after which `serve` returns."""
        self._server.drain()
        self._server.should_exit = True
