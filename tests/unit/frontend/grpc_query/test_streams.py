import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from skysail_common.clock import NEVER
from skysail_common.errors import (
    ApplicationNotFound,
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    ModelNotFound,
    NoReadyReplica,
    SkysailError,
    Status,
    Unavailable,
)
from skysail_common.rpc.contract import LateHandler
from skysail_common.rpc.messages import duration, tensor_from_proto, tensor_to_proto
from skysail_common.tensors import DataType, Tensor, from_numpy, to_numpy
from skysail_frontend.ingress import grpc_query
from skysail_frontend.ingress.grpc_query import SERVICE, GrpcQuery, QueryIds
from skysail_frontend.ingress.stream_session import Streams, StreamSession
from skysail_protos.v1 import query_pb2 as pb
from skysail_protos.v1.tensors_pb2 import Tensor as TensorMessage
from skysail_testing.clock import FakeClock
from skysail_testing.fake_calls import FakeCall
from unit.frontend.parts import (
    Frontend,
    TurningLoop,
    application,
    doubled,
    failing,
    served,
    turns,
)

LONG = "日" * 40_000


def request_of(
    target: str = "m", value: object = (1.0, 2.0, 3.0), name: str = "x", **fields: object
) -> pb.PredictRequest:
    tensor = from_numpy(name, np.array([value]))
    return pb.PredictRequest(target=target, inputs=[tensor_to_proto(tensor)], **fields)


def door_of(frontend: Frontend) -> GrpcQuery:
    return GrpcQuery(frontend.dispatcher, QueryIds(), Streams(frontend.dispatcher, 10))


def late_of(frontend: Frontend) -> LateHandler:
    return door_of(frontend).late[f"/{SERVICE}/Predict"]


def ask(
    frontend: Frontend,
    request: pb.PredictRequest | bytes,
    deadline: float = NEVER,
    arrival: float | None = None,
) -> FakeCall:
    """Make a call as a transport does, and end the turn of the loop."""
    door = door_of(frontend)
    message = request if isinstance(request, bytes) else request.SerializeToString()
    call = FakeCall(f"/{SERVICE}/Predict", message, deadline, frontend.clock())
    if arrival is not None:
        call.arrival = arrival
    try:
        door.unary[call.method](call)
    except SkysailError as error:
        call.fail(error)
    frontend.loop.turn()
    return call


def answer_of(call: FakeCall) -> pb.PredictResponse:
    assert call.error is None, call.error
    return pb.PredictResponse.FromString(call.answer)


def values(response: pb.PredictResponse) -> dict[str, list]:
    tensors = map(tensor_from_proto, response.outputs)
    return {tensor.name: to_numpy(tensor).tolist() for tensor in tensors}


def refusal(frontend: Frontend, request: pb.PredictRequest | bytes) -> SkysailError:
    call = ask(frontend, request)
    assert call.error is not None
    assert frontend.dispatcher.num_unsettled == 0
    return call.error


# Ids.


def test_ids_are_unique_and_exact_in_json_readers():
    ids, others = QueryIds(), QueryIds()
    numbers = [ids.next_number() for _ in range(100)] + [others.next_number() for _ in range(100)]
    assert len(set(numbers)) == 200
    assert max(numbers) < 2**53
    assert int(ids.next_text(), 16) == numbers[99] + 1


# Single queries.


def test_a_query_is_answered_with_its_id_and_the_times():
    frontend = Frontend(served(), applications=[application("app", "m:", slo_s=1.0)])
    call = ask(frontend, request_of("app", query_id="seven"))
    frontend.clock.advance(0.25)
    frontend.replica.answer(compute_s=0.125)
    response = answer_of(call)
    assert response.query_id == "seven"
    assert values(response) == {"y": [[2.0, 4.0, 6.0]]}
    assert response.outcome == pb.OUTCOME_OK
    assert not response.is_default
    assert response.explanation == ""
    assert (response.model, response.version) == ("m", "1")
    timings = response.timings
    assert timings.total.ToNanoseconds() == 250_000_000
    assert timings.compute.ToNanoseconds() == 125_000_000
    assert timings.batch_wait.ToNanoseconds() == 125_000_000
    assert timings.queue.ToNanoseconds() == 0


def test_a_query_without_an_id_gets_one():
    frontend = Frontend(served(), function=doubled)
    door = GrpcQuery(frontend.dispatcher, QueryIds(), Streams(frontend.dispatcher, 10))
    seen = set()
    for _ in range(3):
        call = FakeCall("", request_of().SerializeToString())
        door.predict(call)
        frontend.loop.turn()
        seen.add(answer_of(call).query_id)
    assert len(seen) == 3
    assert "" not in seen


@pytest.mark.parametrize(
    "array",
    [np.array([1, 2, 3]), np.array([1, 2, 3], "u1"), np.array([1, 2, 3], "f2")],
)
@pytest.mark.parametrize("name", ["x", ""])
def test_numbers_are_widened_to_what_the_model_takes(array, name):
    frontend = Frontend(served(), function=doubled)
    response = answer_of(ask(frontend, request_of(value=array, name=name)))
    assert values(response) == {"y": [[2.0, 4.0, 6.0]]}


@pytest.mark.parametrize(
    "tensors",
    [
        [from_numpy("x", np.array([[1.0, 2.0, 3.0]]))],
        [from_numpy("", np.array([[1, 2, 3]], "i1"))],
        [from_numpy("x", np.array([[2**60 + 1] * 3]))],
        [from_numpy("x", np.array([["a", "b", "c"]], object))],
        [Tensor("x", DataType.FP64, (1, 3), bytes(25))],
        [Tensor("x", DataType.INT8, (1, 3), b"")],
        [from_numpy("x", np.array([[1.0, 2.0, 3.0]]))] * 2,
        [from_numpy("y", np.array([[1.0, 2.0, 3.0]]))],
        [],
    ],
)
def test_an_answer_does_not_depend_on_the_place_of_the_data(tensors, monkeypatch):
    request = pb.PredictRequest(
        query_id="q", target="m", inputs=[tensor_to_proto(tensor) for tensor in tensors]
    )
    known = ask(Frontend(served(), function=doubled), request)
    in_place = replace(grpc_query._predict_request, whole_bytes=-1)
    monkeypatch.setattr(grpc_query, "_predict_request", in_place)
    large = ask(Frontend(served(), function=doubled), request)
    assert large.answer == known.answer
    assert str(large.error) == str(known.error)


def test_a_version_can_be_named():
    frontend = Frontend(served("m:1"), served("m:2", is_current=False), function=doubled)
    assert answer_of(ask(frontend, request_of(version="2"))).version == "2"
    assert answer_of(ask(frontend, request_of())).version == "1"


def test_an_application_takes_precedence_over_a_model_of_its_name():
    frontend = Frontend(served(), applications=[application("m", default=[9.0] * 3)])
    response = answer_of(ask(frontend, request_of("m")))
    assert response.outcome == pb.OUTCOME_DEFAULT_NO_REPLICA
    assert response.is_default


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        (
            request_of("nope"),
            ApplicationNotFound,
            "no application and no deployed model is called 'nope'",
        ),
        (request_of(version="9"), ModelNotFound, "Request for unknown model: 'm' version 9"),
        (request_of(value=["a", "b", "c"]), InvalidInput, "which cannot become FP64"),
        (request_of(value=[1.0]), InvalidInput, "unexpected shape for input 'x'"),
        (request_of(name="z"), InvalidInput, "unexpected inference input 'z'"),
        (pb.PredictRequest(target="m"), InvalidInput, "expected 1 inputs but got 0"),
        (request_of(timeout=duration(-1)), InvalidInput, "timeout must be greater than 0"),
        (request_of(timeout=duration(0)), InvalidInput, "timeout must be greater than 0"),
        (b"\xff\xff", InvalidInput, "Unable to parse request"),
    ],
)
def test_a_wrong_query_is_refused(request_, kind, text):
    error = refusal(Frontend(served()), request_)
    assert type(error) is kind
    assert text in error.message


@pytest.mark.parametrize(
    "request_",
    [
        request_of(LONG),
        request_of(version=LONG),
        request_of(name=LONG),
        pb.PredictRequest(target="m", inputs=[TensorMessage(name=LONG, datatype=99)]),
        pb.PredictRequest(target="m", inputs=[TensorMessage(name=LONG, datatype=1, content=99)]),
    ],
)
def test_an_error_cuts_long_texts(request_):
    assert len(refusal(Frontend(served()), request_).message) < 500


def test_an_unknown_datatype_is_refused():
    request = request_of()
    request.inputs[0].datatype = 99
    assert "no known datatype" in refusal(Frontend(served()), request).message


@pytest.mark.parametrize("shape", [(-1, -1), (-1, 1), (2**62, 2**62), (1,) * 100])
def test_an_impossible_shape_is_refused_even_if_numbers_are_widened(shape):
    tensor = Tensor("x", DataType.INT8, shape, b"\1")
    request = pb.PredictRequest(target="m", inputs=[tensor_to_proto(tensor)])
    assert type(refusal(Frontend(served()), request)) is InvalidInput


@pytest.mark.parametrize(
    ("timeout_s", "call_s", "slo_s", "expected_s"),
    [(0.02, NEVER, 1.0, 0.02), (0.5, 0.03, 1.0, 0.03), (0.5, NEVER, 0.04, 0.04)],
)
def test_the_soonest_deadline_applies(timeout_s, call_s, slo_s, expected_s):
    app = application("app", "m:", slo_s=slo_s)
    frontend = Frontend(served(), applications=[app])
    request = request_of("app", timeout=duration(timeout_s))
    call = ask(frontend, request, frontend.clock() + call_s)
    frontend.loop.advance(expected_s - 0.001)
    assert not call.is_answered
    frontend.loop.advance(0.002)
    assert isinstance(call.error, DeadlineExceeded)


def test_a_missed_deadline_is_answered_with_the_default_output_as_tensors():
    app = application("app", "m:", default=[1, 2, 3])
    frontend = Frontend(served(), applications=[app])
    tensor = from_numpy("x", np.zeros((2, 3)))
    request = pb.PredictRequest(target="app", inputs=[tensor_to_proto(tensor)])
    call = ask(frontend, request)
    frontend.loop.advance(0.11)
    response = answer_of(call)
    assert response.outcome == pb.OUTCOME_DEFAULT_DEADLINE
    assert response.is_default
    assert response.explanation == (
        "Failed to retrieve a prediction response within the specified latency SLO"
    )
    assert response.outputs[0].datatype == DataType.FP64
    assert values(response) == {"y": [[1.0, 2.0, 3.0]] * 2}
    assert response.timings.total.ToNanoseconds() == pytest.approx(0.1e9, rel=0.01)


def test_an_application_without_routes_answers_by_its_default_output():
    frontend = Frontend(applications=[application("app", default={"label": "cat", "score": 1})])
    response = answer_of(ask(frontend, request_of("app")))
    assert values(response) == {"label": ["cat"], "score": [1]}
    assert (response.model, response.version) == ("", "")


def test_the_slo_and_the_total_time_count_from_the_arrival_of_the_call():
    app = application("app", "m:", default=[1.0, 2.0, 3.0], slo_s=0.1)
    frontend = Frontend(served(), applications=[app])
    frontend.clock.advance(0.06)
    call = ask(frontend, request_of("app"), arrival=FakeClock.BEGIN)
    frontend.loop.advance(0.03)
    assert not call.is_answered
    frontend.loop.advance(0.011)
    response = answer_of(call)
    assert response.outcome == pb.OUTCOME_DEFAULT_DEADLINE
    assert response.timings.total.ToNanoseconds() == pytest.approx(100e6, abs=2e6)


def test_a_late_call_gets_the_default_output_of_its_application():
    app = application("app", "m:", default=[1.0, 2.0, 3.0])
    frontend = Frontend(served(), applications=[app])
    call = FakeCall("", request_of("app", query_id="seven").SerializeToString())
    assert late_of(frontend)(call)
    response = answer_of(call)
    assert response.outcome == pb.OUTCOME_DEFAULT_OVERLOADED
    assert values(response) == {"y": [[1.0, 2.0, 3.0]]}
    assert response.query_id == "seven"
    assert frontend.dispatcher.num_unsettled == 0
    assert frontend.version().batcher.rate.num_rows == 1
    assert not frontend.replica.in_flight


@pytest.mark.parametrize("target", ["m", "app", "nope", "x" * 200])
def test_a_late_call_without_a_default_output_is_not_answered_and_counts_as_an_arrival(target):
    frontend = Frontend(served(), applications=[application("app", "m:")])
    call = FakeCall("", request_of(target, query_id="a").SerializeToString())
    assert not late_of(frontend)(call)
    assert not call.is_answered
    assert frontend.version().batcher.rate.num_rows == (target in ("m", "app"))


@pytest.mark.parametrize("message", [b"", b"\x12", b"\x12\x03ap", b"\xff\xff", b"\x12\xff\xff\xff"])
def test_a_late_call_with_an_invalid_request_is_not_answered(message):
    frontend = Frontend(served(), applications=[application("app", "m:", default=[0.0])])
    assert not late_of(frontend)(FakeCall("", message))


def test_without_a_default_output_there_is_an_error():
    frontend = Frontend(applications=[application("app")])
    assert isinstance(refusal(frontend, request_of("app")), NoReadyReplica)


def test_a_cancelled_call_cancels_its_query():
    frontend = Frontend(served())
    call = ask(frontend, request_of())
    call.cancel()
    assert frontend.dispatcher.num_unsettled == 0
    frontend.replica.answer()
    assert not call.is_answered


# Many queries on one stream.


class FakeStream:
    """A stream whose client is the test."""

    method = f"/{SERVICE}/PredictStream"

    def __init__(self, deadline: float = NEVER) -> None:
        self.deadline = deadline
        self.arrival = FakeClock.BEGIN
        self.answers: list[pb.PredictStreamResponse] = []
        self.num_read = 0
        self.may_send = asyncio.Event()
        self.may_send.set()
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()

    def metadata(self) -> dict[str, str | bytes]:
        return {}

    def ask(self, *requests: pb.PredictRequest | bytes) -> None:
        for request in requests:
            is_bytes = isinstance(request, bytes)
            self._incoming.put_nowait(request if is_bytes else request.SerializeToString())

    def end(self) -> None:
        self._incoming.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._incoming.get()) is not None:
            self.num_read += 1
            yield message

    async def send(self, message: bytes) -> None:
        await self.may_send.wait()
        self.answers.append(pb.PredictStreamResponse.FromString(message))

    @property
    def ids(self) -> list[str]:
        return [answer.query_id for answer in self.answers]


class Streaming:
    """A frontend with one stream."""

    def __init__(
        self, max_stream_queries: int = 10, max_age_s: float = 0.0, **options: object
    ) -> None:
        options.setdefault("loop", TurningLoop)
        self.frontend = Frontend(served(max_batch_size=1, num_replicas=4), **options)
        for _ in range(3):
            self.frontend.add_replica(function=options.get("function"))
        self.stream = FakeStream()
        self.streams = Streams(self.frontend.dispatcher, max_stream_queries, max_age_s)
        door = GrpcQuery(self.frontend.dispatcher, QueryIds(), self.streams)
        self.serving = asyncio.ensure_future(door.streams[self.stream.method](self.stream))

    async def ask(self, *requests: pb.PredictRequest | bytes) -> None:
        self.stream.ask(*requests)
        await turns()

    def answer(self, query_id: str) -> None:
        for replica in self.frontend.replicas:
            for batch in replica.in_flight:
                if batch.queries[0].query_id == query_id:
                    replica.answer(batch)
                    return
        raise AssertionError(f"{query_id} is not in flight")


@pytest.fixture
async def streaming():
    streaming = Streaming()
    yield streaming
    streaming.serving.cancel()
    await asyncio.gather(streaming.serving, return_exceptions=True)


async def test_a_stream_without_queries_ends(streaming):
    streaming.stream.end()
    await turns()
    assert streaming.serving.done()
    assert streaming.stream.answers == []


async def test_answers_leave_as_soon_as_they_are_ready(streaming):
    await streaming.ask(*(request_of(query_id=each) for each in "abc"))
    for query_id in "cab":
        streaming.answer(query_id)
        await turns()
    assert streaming.stream.ids == ["c", "a", "b"]
    first = streaming.stream.answers[0].response
    assert first.query_id == "c"
    assert values(first) == {"y": [[2.0, 4.0, 6.0]]}
    assert first.timings.HasField("total")


async def test_a_stream_ends_once_all_is_answered(streaming):
    await streaming.ask(request_of(query_id="a"), request_of(query_id="b"))
    streaming.stream.end()
    await turns()
    streaming.answer("a")
    await turns()
    assert not streaming.serving.done()
    streaming.answer("b")
    await turns()
    assert streaming.serving.done()
    assert streaming.serving.exception() is None
    assert streaming.stream.ids == ["a", "b"]


async def test_queries_without_an_id_get_one(streaming):
    await streaming.ask(request_of(), request_of())
    for replica in streaming.frontend.replicas:
        while replica.in_flight:
            replica.answer()
    await turns()
    assert len(set(streaming.stream.ids)) == 2
    assert "" not in streaming.stream.ids


async def test_an_id_in_flight_is_refused_until_its_answer(streaming):
    await streaming.ask(request_of(query_id="a"), request_of(query_id="a"))
    (refused,) = streaming.stream.answers
    assert refused.query_id == "a"
    assert refused.error.code == Status.INVALID_ARGUMENT
    assert refused.error.message == "query_id 'a' is already in flight on this stream"
    assert streaming.frontend.dispatcher.num_unsettled == 1
    streaming.answer("a")
    await turns()
    assert streaming.stream.answers[1].HasField("response")
    await streaming.ask(request_of(query_id="a"))
    streaming.answer("a")
    await turns()
    assert streaming.stream.answers[2].HasField("response")


async def test_a_wrong_query_is_answered_with_its_error_and_the_stream_stays_open(streaming):
    await streaming.ask(
        request_of("nope", query_id="a"),
        request_of(value=[1.0], query_id="b"),
        b"\xff\xff",
        request_of(query_id="d"),
    )
    streaming.answer("d")
    await turns()
    errors = {answer.query_id: answer.error for answer in streaming.stream.answers[:3]}
    assert errors["a"].code == Status.NOT_FOUND
    assert errors["a"].reason == "ApplicationNotFound"
    assert errors["b"].code == Status.INVALID_ARGUMENT
    assert errors["b"].reason == "InvalidInput"
    assert errors[""].message.startswith("Unable to parse request")
    assert streaming.stream.answers[3].HasField("response")


async def test_the_error_of_a_model_is_in_band():
    streaming = Streaming(function=failing(ModelFailed("ValueError: no")))
    await streaming.ask(request_of(query_id="a"))
    streaming.stream.end()
    await streaming.serving
    (answer,) = streaming.stream.answers
    assert (answer.query_id, answer.error.reason) == ("a", "ModelFailed")
    assert answer.error.code == Status.INTERNAL
    assert answer.error.message == "ValueError: no"


async def test_a_missed_deadline_is_in_band(streaming):
    await streaming.ask(request_of(query_id="a", timeout=duration(0.05)))
    streaming.frontend.loop.advance(0.06)
    await turns()
    (answer,) = streaming.stream.answers
    assert answer.error.reason == "DeadlineExceeded"


async def test_a_default_output_on_a_stream_is_a_response():
    app = application("app", default=[0.0])
    streaming = Streaming(applications=[app])
    await streaming.ask(request_of("app", query_id="a"))
    streaming.stream.end()
    await streaming.serving
    assert streaming.stream.answers[0].response.is_default


async def test_unanswered_queries_are_bounded():
    streaming = Streaming(max_stream_queries=2)
    await streaming.ask(*(request_of(query_id=each) for each in "abcdef"))
    dispatcher = streaming.frontend.dispatcher
    assert dispatcher.num_unsettled == 2
    assert streaming.stream.num_read <= 3
    streaming.answer("b")
    await turns()
    assert dispatcher.num_unsettled == 2
    for query_id in "acdef":
        streaming.answer(query_id)
        await turns()
    streaming.stream.end()
    await streaming.serving
    assert streaming.stream.ids == list("bacdef")


async def test_a_stream_whose_client_does_not_read_is_not_read():
    streaming = Streaming(max_stream_queries=2, function=doubled)
    streaming.stream.may_send.clear()
    await streaming.ask(*(request_of(query_id=each) for each in "abcdef"))
    await turns(50)
    assert streaming.stream.num_read <= 3
    streaming.stream.may_send.set()
    streaming.stream.end()
    await streaming.serving
    assert sorted(streaming.stream.ids) == list("abcdef")


async def test_errors_count_as_unanswered_queries():
    streaming = Streaming(max_stream_queries=2)
    streaming.stream.may_send.clear()
    await streaming.ask(*[b"\xff"] * 10)
    assert streaming.stream.num_read <= 3
    streaming.stream.may_send.set()
    streaming.stream.end()
    await streaming.serving
    assert len(streaming.stream.answers) == 10


async def test_slow_queries_yield_the_loop_to_others():
    clock = FakeClock()
    stream = FakeStream()
    stream.ask(*[b""] * 20)
    stream.end()
    session = StreamSession(stream, 1000, clock)
    events: list[str] = []

    def ask(session: StreamSession, message: bytes) -> None:
        events.append("query")
        asyncio.get_running_loop().call_soon(events.append, "other")
        clock.advance(0.0015)

    await session.read(ask)
    # A turn ends with the query that exceeds its 2 ms.
    assert events == ["query", "query", "other", "other"] * 10


async def test_a_cancelled_stream_cancels_its_queries(streaming):
    await streaming.ask(*(request_of(query_id=each) for each in "abc"))
    assert streaming.frontend.dispatcher.num_unsettled == 3
    streaming.serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await streaming.serving
    assert streaming.frontend.dispatcher.num_unsettled == 0
    streaming.answer("a")
    await turns()
    assert streaming.stream.answers == []


@pytest.mark.parametrize("is_ended", [True, False])
async def test_a_disconnect_during_an_answer_is_not_an_internal_error(
    streaming, is_ended, monkeypatch, caplog
):
    async def send(message: bytes) -> None:
        raise RuntimeError("the transport is gone")

    monkeypatch.setattr(streaming.stream, "send", send)
    await streaming.ask(request_of(query_id="a"), request_of(query_id="b"))
    streaming.answer("a")
    if is_ended:
        streaming.stream.end()
    # The client is gone, so that the rest is not computed.
    await turns()
    await asyncio.gather(streaming.serving, return_exceptions=True)
    assert streaming.frontend.dispatcher.num_unsettled == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_many_queries_are_each_answered_once():
    streaming = Streaming(max_stream_queries=7, function=doubled)
    ids = [str(index) for index in range(300)]
    for each in ids:
        streaming.stream.ask(request_of(value=[float(each)] * 3, query_id=each))
    streaming.stream.end()
    await streaming.serving
    answered = {answer.query_id: values(answer.response) for answer in streaming.stream.answers}
    assert len(streaming.stream.answers) == 300
    assert answered == {each: {"y": [[2 * float(each)] * 3]} for each in ids}


async def test_a_drain_answers_the_queries_of_a_stream_and_ends_it():
    streaming = Streaming(max_stream_queries=10)
    await streaming.ask(request_of(query_id="a"), request_of(query_id="b"))
    streaming.streams.drain()
    await turns()
    streaming.stream.ask(request_of(query_id="late"))
    await turns()
    assert not streaming.serving.done()
    streaming.answer("a")
    streaming.answer("b")
    with pytest.raises(Unavailable, match="draining"):
        await streaming.serving
    assert {answer.query_id for answer in streaming.stream.answers} == {"a", "b"}


async def test_an_old_stream_ends_after_the_answers_to_its_queries():
    streaming = Streaming(max_age_s=0.001)
    await streaming.ask(request_of(query_id="a"))
    assert not streaming.stream.answers
    streaming.answer("a")
    with pytest.raises(Unavailable, match="maximum age; reconnect"):
        await asyncio.wait_for(streaming.serving, 10)
    assert [answer.query_id for answer in streaming.stream.answers] == ["a"]


async def test_a_new_stream_is_refused_during_a_drain():
    streaming = Streaming(max_stream_queries=10)
    streaming.streams.drain()
    streaming.stream.ask(request_of(query_id="a"))
    with pytest.raises(Unavailable, match="draining"):
        await streaming.serving
    assert streaming.stream.answers == []


async def test_unread_large_answers_stop_the_reading_of_a_stream(monkeypatch):
    monkeypatch.setattr("skysail_frontend.ingress.stream_session._MAX_BYTES", 100)
    streaming = Streaming(max_stream_queries=1000)
    for index in range(10):
        streaming.stream.ask(request_of(query_id=str(index)))
    await turns(100)
    # Each holds 24 bytes of input.
    assert streaming.frontend.dispatcher.num_unsettled == 5
