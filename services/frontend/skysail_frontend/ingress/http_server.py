"""The HTTP service: both REST doors in one application, served in the frontend's loop."""

import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from skysail_common.errors import SkysailError
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.statuses import as_skysail_error
from skysail_common.sockets import bound_socket
from skysail_frontend.ingress.http import http_status, json_response
from skysail_frontend.ingress.rest_clipper import clipper_error

log = logging.getLogger(__name__)

_BACKLOG = 1024


def http_app(routes: Sequence[BaseRoute]) -> Starlette:
    """Return the application; whatever a handler raises becomes a JSON error."""

    async def on_skysail_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, SkysailError)
        return _error_response(request, error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return json_response({"error": error.detail}, error.status_code)

    async def on_mistake(request: Request, error: Exception) -> Response:
        return _error_response(request, as_skysail_error(error, request.url.path))

    return Starlette(
        routes=list(routes),
        exception_handlers={
            SkysailError: on_skysail_error,
            HTTPException: on_http_error,
            Exception: on_mistake,
        },
    )


def _error_response(request: Request, error: SkysailError) -> Response:
    path = request.url.path
    if path == "/v2" or path.startswith("/v2/"):
        response = json_response({"error": error.message}, http_status(error))
    else:
        response = json_response(clipper_error(error), http_status(error))
    backlog = error.backlog
    if backlog is not None:
        response.headers["retry-after"] = str(max(1, ceil(backlog.wait_s)))
        response.headers["retry-after-ms"] = str(max(1, ceil(backlog.wait_s * 1000)))
        response.headers["shed-reason"] = backlog.reason
    return response


class _Config(uvicorn.Config):
    """Takes a context that is there; uvicorn's own would not be renewed."""

    context: ssl.SSLContext | None = None

    def load(self) -> None:
        super().load()
        self.ssl = self.context


def _context_of(certificates: ServerCertificates) -> ssl.SSLContext:
    """Return what shows the certificates as they are when a client connects."""
    context = certificates.context

    def choose(connection: ssl.SSLObject, *_: object) -> None:
        # Called at each handshake, also where the client names nobody.
        if connection.context is not certificates.context:
            connection.context = certificates.context

    context.sni_callback = choose
    return context


class _Server(uvicorn.Server):
    """Leaves the signals to the process that it is part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """One HTTP server on one address."""

    def __init__(
        self,
        app: Starlette,
        grace_s: float,
        *,
        shares_port: bool = False,
        certificates: ServerCertificates | None = None,
    ) -> None:
        """A server that listens nowhere yet.

        Args:
            app: What it serves.
            grace_s: Longest time for what is under way when it stops.
            shares_port: True to listen beside other processes on the same port.
            certificates: What it shows, over TLS; in the clear if None.
        """
        self._shares_port = shares_port
        config = _Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=max(1, int(grace_s)),
            server_header=False,
        )
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
        self._socket = listener
        return int(listener.getsockname()[1])

    async def serve(self) -> None:
        """Serve until `stop`."""
        assert self._socket is not None
        await self._server.serve([self._socket])

    def stop(self) -> None:
        """Accept nothing any more, answer what is under way, and have `serve` return."""
        self._server.should_exit = True
