"""What Kubernetes asks of a frontend, on the port of the metrics: it can do no TLS where queries do."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route


class Probes:
    """Serves GET /live and GET /ready."""

    def __init__(self, has_routes: Callable[[], Awaitable[bool]]) -> None:
        """Ready once `has_routes` says so."""
        self._has_routes = has_routes
        self.is_draining = False
        """True once no query should come any more."""

    def drain(self) -> None:
        """Say from now on that the frontend is not ready."""
        self.is_draining = True

    def routes(self) -> list[BaseRoute]:
        """Return the paths and their handlers."""
        return [Route("/live", self.live), Route("/ready", self.ready)]

    async def live(self, request: Request) -> Response:
        """Answer 200: who can answer lives."""
        return PlainTextResponse("live\n")

    async def ready(self, request: Request) -> Response:
        """Answer 200 where queries are taken, else 503."""
        if self.is_draining:
            return PlainTextResponse("draining\n", 503)
        if not await self._has_routes():
            return PlainTextResponse("no routes from management yet\n", 503)
        return PlainTextResponse("ready\n")
