"""Probes for Kubernetes, on the metrics port, because a probe has no client certificate."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route


class Probes:
    """Serves GET /live and GET /ready."""

    def __init__(self, has_routes: Callable[[], Awaitable[bool]]) -> None:
        """Creates probes of a frontend that is ready once it has routes."""
        self._has_routes = has_routes
        self.is_draining = False
        """True once the frontend refuses new queries."""

    def drain(self) -> None:
        """Report from now on that the frontend is not ready."""
        self.is_draining = True

    def routes(self) -> list[BaseRoute]:
        """Return the paths and their handlers."""
        return [Route("/live", self.live), Route("/ready", self.ready)]

    async def live(self, request: Request) -> Response:
        """Answer 200: a process that answers is alive."""
        return PlainTextResponse("live\n")

    async def ready(self, request: Request) -> Response:
        """Answer 200 if the frontend accepts queries, else 503."""
        if self.is_draining:
            return PlainTextResponse("draining\n", 503)
        if not await self._has_routes():
            return PlainTextResponse("no routes from management yet\n", 503)
        return PlainTextResponse("ready\n")
