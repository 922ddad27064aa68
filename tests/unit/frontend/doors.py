"""A test client of the HTTP doors, without a network."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection

import httpx
from starlette.types import Receive, Scope, Send

from skysail_frontend.ingress.grpc_query import QueryIds
from skysail_frontend.ingress.http_limits import HttpMemory
from skysail_frontend.ingress.http_server import http_app
from skysail_frontend.ingress.rest_clipper import RestClipper
from skysail_frontend.ingress.rest_v2 import RestV2
from unit.frontend.parts import Frontend, turns

MAX_BODY_BYTES = 2_000


class HttpDoors:
    """A client of both doors, which run as in the frontend."""

    def __init__(
        self,
        frontend: Frontend,
        *,
        is_ready: bool = True,
        max_bytes: int = MAX_BODY_BYTES,
        hosts: Collection[str] = (),
        arrival: float | None = None,
    ) -> None:
        """Create the doors.

        Requests arrive at a given instant, or when their handlers start.
        """
        self.frontend = frontend
        self.memory = HttpMemory()
        dispatcher, ready = frontend.dispatcher, lambda: is_ready
        rest_v2 = RestV2(dispatcher, "our name", max_bytes, ready, self.memory)
        rest_clipper = RestClipper(dispatcher, QueryIds(), max_bytes, self.memory)
        app = http_app([*rest_v2.routes(), *rest_clipper.routes()], hosts)

        async def arrive(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope | {"arrival": arrival}, receive, send)

        transport = httpx.ASGITransport(arrive, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://frontend")

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self._client.get(path, headers=headers)

    async def post(
        self, path: str, body: object, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Post a body: bytes and streams unchanged, other values as JSON."""
        if not isinstance(body, (bytes, AsyncIterator)):
            body = json.dumps(body).encode()
        return await self._client.post(path, content=body, headers=headers)

    async def post_and_wait(self, path: str, body: object, seconds: float) -> httpx.Response:
        """Post a body and, once its queries are in flight, advance the clock."""
        posting = asyncio.ensure_future(self.post(path, body))
        await turns()
        assert self.frontend.dispatcher.num_unsettled or posting.done()
        self.frontend.loop.advance(seconds)
        return await posting
