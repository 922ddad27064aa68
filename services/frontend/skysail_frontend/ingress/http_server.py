"""The HTTP service: both REST doors in one application, served in the frontend's loop."""

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
from starlette.routing import BaseRoute
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
"""Time between two looks at whether all clients have left."""

_MAX_ERROR_CHARS = 4096
_MAX_AUTHORITY = 300
_MAX_HOSTS = 100
"""Values of the header `Host` that are kept with what is made of them."""


def _detail(request: Request, error: HTTPException) -> str:
    path = shown(request.url.path)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return (
            f"nothing is served at {path}; predictions are at POST /v2/models/{{model}}/infer and "
            "POST /{application}/predict"
        )
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{path} does not take {request.method}; use {allowed}"
    return error.detail


def http_app(routes: Sequence[BaseRoute], allowed_hosts: Collection[str] = ()) -> ASGIApp:
    """Return the application; whatever a handler raises becomes a JSON error.

    Args:
        routes: Paths and their handlers; a path may end in a slash or not.
        allowed_hosts: Hosts that requests may name, without ports, beside IP addresses; any if
                empty.
    """

    async def on_skysail_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, SkysailError)
        return _error_response(request, without_frames(error))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = json_response({"error": _detail(request, error)}, error.status_code)
        # `Allow`, which is part of the status 405.
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
        # Probes by HTTP/1.0 name none; a browser always does. Those of Kubernetes and Prometheus
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
            # A redirect would have to know how clients reach this server.
            scope["path"] = path.rstrip("/") or "/"
        await app(scope, receive, send)

    return serve


def _authority(scope: Scope) -> str:
    """Return the beginning of the header `Host`; no name is longer."""
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
            # Both are rounded up: a client that comes back too early is refused again.
            response.headers["retry-after"] = str(max(1, ceil(backlog.wait_s)))
            response.headers["retry-after-ms"] = str(max(1, ceil(backlog.wait_s * 1000)))
        response.headers["shed-reason"] = backlog.reason
    return response


async def _busy_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request if too many are being answered."""
    error = overloaded("too_many_requests", "cannot take the request: too many are under way")
    await _error_response(Request(scope), error)(scope, receive, send)


def _context_of(certificates: ServerCertificates) -> ssl.SSLContext:
    """Return what shows the certificates as they are when a client connects."""
    context = certificates.context

    def choose(connection: ssl.SSLObject, *_: object) -> None:
        # Called at each handshake, also where the client names nobody.
        if connection.context is not certificates.context:
            connection.context = certificates.context

    context.sni_callback = choose
    return context


class _Config(HttpConfig):
    """Takes a context that is there; uvicorn's own would not be renewed."""

    context: ssl.SSLContext | None = None

    def load(self) -> None:
        super().load()
        self.ssl = self.context


class _Server(uvicorn.Server):
    """Leaves the signals to the process that it is part of, and drains before it closes."""

    config: HttpConfig

    def _connection(self) -> HttpConnection:
        return HttpConnection(self.config, self.server_state, self.lifespan.state)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop, context = asyncio.get_running_loop(), self.config.ssl
        # uvicorn's own gives a client that says nothing a minute for its TLS handshake.
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
        """Tell the clients of all connections, by the next answer to each, that they close."""
        self.config.is_draining = True
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on all connections while clients learn that they close, then close the rest."""
        loop, config = asyncio.get_running_loop(), self.config
        connections = self.server_state.connections
        grace_s = config.timeout_graceful_shutdown or 0
        drained_by = loop.time() + grace_s
        idle_until = loop.time() + min(config.limits.drain_idle_s, grace_s)
        self.drain()
        # uvicorn keeps its connections in a plain set, which no event watches.
        while connections and loop.time() < idle_until:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_EVERY_S)
        # The kernel resets what it took and nobody accepted.
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
    """Accept what waits at a listener."""
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
        """A server that listens nowhere yet.

        Args:
            app: What it serves.
            grace_s: Longest time for what is under way when it stops.
            limits: Bounds of connections and requests.
            memory: What all requests hold, if several servers share it.
            clock: Time, for the arrival of requests.
            shares_port: True to listen beside other processes on the same port.
            certificates: What it shows, over TLS; in the clear if None.
        """
        self._shares_port = shares_port
        limits = limits or HttpLimits()
        config = _Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            interface="asgi3",
            # Nothing here asks who the client is, or by which scheme it came.
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
        self._server = _Server(config)
        self._socket: socket.socket | None = None

    def bind(self, host: str, port: int) -> int:
        """Take the address and return its port.

        Raises:
            FailedPrecondition: it is in use, or not an address of this machine.
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
        """Ask clients to leave, answer what they sent, close, and let `serve` return."""
        self._server.drain()
        self._server.should_exit = True
