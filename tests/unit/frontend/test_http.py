import asyncio
from collections.abc import Callable

import numpy as np
import orjson
import pytest
from starlette.requests import Request

from skysail_common.errors import InvalidInput, ModelFailed, NoReadyReplica, all_errors
from skysail_frontend.core.query import Query, Settle
from skysail_frontend.ingress.http import http_status, json_response, predict_all
from skysail_frontend.ingress.http_bodies import BodyTooLarge, headers_of, read_body
from skysail_frontend.ingress.http_limits import HttpMemory
from unit.frontend.parts import Frontend, TurningLoop, doubled, served, turns


def request_of(*messages: dict, **headers: str) -> Request:
    """Return a request whose body arrives as these ASGI messages."""
    incoming = iter(messages)

    async def receive() -> dict:
        return next(incoming)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


async def read(request: Request, max_bytes: int) -> bytes:
    with HttpMemory().request() as held:
        return await read_body(request, headers_of(request), max_bytes, held)


def part(body: bytes, *, is_last: bool = False) -> dict:
    return {"type": "http.request", "body": body, "more_body": not is_last}


async def test_a_body_may_come_in_parts():
    request = request_of(part(b'{"a": '), part(b""), part(b"[1]}", is_last=True))
    assert await read(request, 100) == b'{"a": [1]}'


async def test_a_body_is_not_read_beyond_the_limit():
    with pytest.raises(BodyTooLarge, match="larger than the limit of 10 bytes"):
        await read(request_of(part(b"123456"), part(b"123456")), 10)


async def test_a_body_with_a_too_large_declared_length_is_not_read():
    with pytest.raises(BodyTooLarge, match="the body is 11 bytes; the limit is 10"):
        await read(request_of(content_length="11"), 10)


@pytest.mark.parametrize("length", ["", "many", "-1", "1e9"])
async def test_a_length_that_is_not_a_number_is_ignored(length):
    request = request_of(part(b"[]", is_last=True), content_length=length)
    assert await read(request, 10) == b"[]"


async def test_a_disconnect_before_the_end_of_a_body_is_an_error():
    with pytest.raises(InvalidInput, match="client disconnected"):
        await read(request_of(part(b"{"), {"type": "http.disconnect"}), 100)


@pytest.mark.parametrize("value", [10**30, "\ud800", {1, 2}, {"a": object()}, {1: 2}])
def test_a_value_that_json_cannot_represent_fails_the_model(value):
    with pytest.raises(ModelFailed, match="cannot write the answer as JSON"):
        json_response(value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(6.0).reshape(2, 3).T,
        np.array([["a"], ["b"]], dtype=object),
        np.array([1.5], "<f2"),
        np.array(7),
    ],
)
def test_arrays_of_every_layout_become_lists(array):
    assert orjson.loads(json_response(array).body) == array.tolist()


def test_every_error_is_an_http_error():
    assert all(400 <= http_status(kind("no")) <= 599 for kind in all_errors())


Make = Callable[[Settle], Query]


def made_by(frontend: Frontend, before: Callable[[], None] = lambda: None) -> Make:
    def make(settle: Settle) -> Query:
        query = frontend.query()
        query.settle = settle
        before()
        return query

    return make


async def test_a_disconnect_cancels_the_queries_of_a_client():
    frontend = Frontend(served(), loop=TurningLoop)
    request = request_of()
    client_left = request.scope["client_left"] = asyncio.get_running_loop().create_future()
    makes = [made_by(frontend), made_by(frontend)]
    asking = asyncio.ensure_future(predict_all(request, frontend.dispatcher, makes))
    await turns()
    assert frontend.dispatcher.num_unsettled == 2
    client_left.set_result(None)
    with pytest.raises(InvalidInput, match="the client disconnected"):
        await asking
    assert frontend.dispatcher.num_unsettled == 0


async def test_a_query_for_a_replaced_version_never_reaches_its_successor():
    frontend = Frontend(served(artifact_sha256="a"), loop=TurningLoop)

    def redeploy() -> None:
        frontend.apply(served(artifact_sha256="b"))
        frontend.add_replica(function=doubled)

    makes = [made_by(frontend), made_by(frontend, redeploy), made_by(frontend)]
    found = await predict_all(request_of(), frontend.dispatcher, makes)
    errors = [type(prediction.error) for _, prediction in found]
    assert errors == [NoReadyReplica, NoReadyReplica, type(None)]
    old, new = frontend.replicas
    assert (old.sizes, new.sizes) == ([], [1])
