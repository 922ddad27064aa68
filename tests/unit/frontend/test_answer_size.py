"""Answers up to the limit, and the same clear error at every door for one byte more."""

import json
from collections.abc import Awaitable, Callable

import httpx
import numpy as np
import pytest

from skysail_common.errors import ModelFailed, SkysailError
from skysail_frontend.ingress.grpc_inference import GrpcInference
from skysail_frontend.ingress.grpc_query import GrpcQuery, QueryIds
from skysail_frontend.ingress.http_limits import HttpMemory
from skysail_frontend.ingress.http_server import http_app
from skysail_frontend.ingress.rest_clipper import RestClipper
from skysail_frontend.ingress.rest_v2 import RestV2
from skysail_frontend.ingress.stream_session import Streams
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.v1 import query_pb2
from skysail_testing.fake_calls import FakeCall
from unit.frontend.grpc_inference.calls import OneStream, request_of
from unit.frontend.grpc_query.calls import request_of as query_of
from unit.frontend.parts import Frontend, TurningLoop, application, doubled, served, turns

ROWS = {"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1.5, 2.5, 3.5]}

Outcome = int | str
"""Size of the answer in bytes, or the error."""


class SameIds(QueryIds):
    """Make the query ids of all answers equally long."""

    def next_number(self) -> int:
        return 7


def frontend() -> Frontend:
    return Frontend(
        served(),
        applications=[application("app", "m:", slo_s=10.0)],
        function=doubled,
        loop=TurningLoop,
    )


async def unary(door: GrpcQuery | GrpcInference, method: str, message: bytes) -> Outcome:
    call = FakeCall(method, message)
    door.unary[method](call)
    await turns()
    return outcome_of(call.answer, call.error)


def outcome_of(answer: bytes | None, error: SkysailError | None) -> Outcome:
    if error is None:
        assert answer is not None
        return len(answer)
    assert isinstance(error, ModelFailed)
    return error.message


async def by_predict(max_bytes: int) -> Outcome:
    dispatcher = frontend().dispatcher
    door = GrpcQuery(dispatcher, QueryIds(), Streams(dispatcher, 10), max_bytes)
    message = query_of(query_id="a").SerializeToString()
    return await unary(door, "/skysail.v1.QueryService/Predict", message)


async def by_model_infer(max_bytes: int) -> Outcome:
    dispatcher = frontend().dispatcher
    door = GrpcInference(dispatcher, "s", lambda: True, Streams(dispatcher, 10), max_bytes)
    message = request_of(id="a").SerializeToString()
    return await unary(door, "/inference.GRPCInferenceService/ModelInfer", message)


class RawStream(OneStream):
    """A stream that keeps the bytes of its answers."""

    async def send(self, message: bytes) -> None:
        self.answers.append(message)


async def by_predict_stream(max_bytes: int) -> Outcome:
    dispatcher = frontend().dispatcher
    door = GrpcQuery(dispatcher, QueryIds(), Streams(dispatcher, 10), max_bytes)
    stream = RawStream(query_of(query_id="a").SerializeToString())
    await door.predict_stream(stream)
    (answer,) = stream.answers
    error = query_pb2.PredictStreamResponse.FromString(answer).error
    assert error.reason in ("", "ModelFailed")
    return error.message or len(answer)


async def by_model_stream_infer(max_bytes: int) -> Outcome:
    dispatcher = frontend().dispatcher
    door = GrpcInference(dispatcher, "s", lambda: True, Streams(dispatcher, 10), max_bytes)
    stream = RawStream(request_of(id="a").SerializeToString())
    await door.model_stream_infer(stream)
    (answer,) = stream.answers
    return oip.ModelStreamInferResponse.FromString(answer).error_message or len(answer)


async def by_http(path: str, body: object, max_bytes: int) -> Outcome:
    dispatcher = frontend().dispatcher
    routes = [
        *RestV2(dispatcher, "s", max_bytes, lambda: True, HttpMemory()).routes(),
        *RestClipper(dispatcher, SameIds(), max_bytes, HttpMemory()).routes(),
    ]
    transport = httpx.ASGITransport(http_app(routes), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://frontend") as client:
        answer = await client.post(path, content=json.dumps(body, separators=(",", ":")))
    if answer.status_code == 200:
        return len(answer.content)
    assert answer.status_code == 500, answer.text
    return str(answer.json().get("cause") or answer.json()["error"])


async def by_json(max_bytes: int) -> Outcome:
    # The answer is longer than the request, to which the same limit applies.
    return await by_http("/v2/models/m/infer", {"id": "a" * 99, "inputs": [ROWS]}, max_bytes)


async def by_binary(max_bytes: int) -> Outcome:
    body = {"id": "a" * 99, "inputs": [ROWS], "parameters": {"binary_data_output": True}}
    return await by_http("/v2/models/m/infer", body, max_bytes)


async def by_input(max_bytes: int) -> Outcome:
    return await by_http("/app/predict", {"input": [1, 2, 3]}, max_bytes)


async def by_input_batch(max_bytes: int) -> Outcome:
    return await by_http("/app/predict", {"input_batch": [[1, 2, 3]] * 4}, max_bytes)


@pytest.mark.parametrize(
    "ask",
    [
        by_predict,
        by_model_infer,
        by_predict_stream,
        by_model_stream_infer,
        by_json,
        by_binary,
        by_input,
        by_input_batch,
    ],
)
async def test_an_answer_is_refused_one_byte_above_the_limit(
    ask: Callable[[int], Awaitable[Outcome]],
):
    size = await ask(10_000)
    assert isinstance(size, int)
    assert await ask(size) == size
    assert await ask(size - 1) == f"the answer is {size} bytes; the limit is {size - 1}"


async def test_a_too_large_answer_is_refused_before_the_conversion_to_json():
    rows = np.zeros((40, 3))
    tensor = {"name": "x", "datatype": "FP64", "shape": rows.shape, "data": rows.tolist()}
    found = await by_http("/v2/models/m/infer", {"inputs": [tensor]}, 950)
    assert found == f"the answer is {rows.nbytes} bytes; the limit is 950"
