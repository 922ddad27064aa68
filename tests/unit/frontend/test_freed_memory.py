"""Failed requests free their memory at once, without the garbage collector."""

import asyncio
import gc
import weakref
from collections.abc import Iterator

import httpx
import pytest
from starlette.routing import Route

from skysail_common.errors import InvalidInput, ModelFailed, Overloaded, SkysailError
from skysail_common.rpc.contract import Call
from skysail_common.rpc.statuses import as_skysail_error, handle
from skysail_frontend.ingress.http_server import http_app
from skysail_frontend.ingress.stream_session import Streams
from skysail_testing.fake_calls import FakeCall
from unit.frontend.parts import Frontend, served

ERRORS = [Overloaded("busy"), InvalidInput("no"), ModelFailed("no"), RuntimeError("unexpected")]


class Body:
    """A stand-in for the bytes of a request or an answer."""


class Held:
    """A detector of freed objects of a handler."""

    def __init__(self) -> None:
        self._bodies: list[weakref.ref[Body]] = []

    def body(self) -> Body:
        body = Body()
        self._bodies.append(weakref.ref(body))
        return body

    @property
    def num_freed(self) -> int:
        return [body() for body in self._bodies].count(None)


@pytest.fixture
def held(caplog: pytest.LogCaptureFixture) -> Iterator[Held]:
    # Records of a log keep exceptions.
    caplog.set_level("CRITICAL")
    gc.disable()
    yield Held()
    gc.enable()


def failing(held: Held, error: Exception) -> None:
    """Fail like a handler that keeps its error in a variable, as handlers of predictions do."""
    body = held.body()
    found = type(error)(str(error))
    assert body
    raise found


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_http(held, error):
    async def serve(request):
        failing(held, error)

    app = http_app([Route("/", serve)])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for _ in range(3):
            assert (await client.get("/")).status_code >= 400
    assert held.num_freed == 3


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_unary_calls(held, error):
    def serve(call: Call) -> None:
        failing(held, error)

    for _ in range(3):
        handle(serve, FakeCall("/x", b"", 1.0, 0.0))
    assert held.num_freed == 3


class _Stream:
    arrival, deadline = 0.0, 1.0

    def __init__(self, body: Body) -> None:
        self.body = body

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> bytes:
        return b"message"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_streams(held, error):
    streams = Streams(Frontend(served()).dispatcher, 10)

    async def serve() -> None:
        def ask(session, message):
            failing(held, error)

        try:
            await streams.serve(_Stream(held.body()), ask)
        except Exception as raised:
            answer = as_skysail_error(raised, "/x")
            assert isinstance(answer, SkysailError)

    for _ in range(3):
        await serve()
    await asyncio.sleep(0)
    assert held.num_freed == 6
