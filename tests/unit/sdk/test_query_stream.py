"""The query stream of a client, with frontends in this process."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

import grpc.aio
import pytest

from skysail import query_stream
from skysail.query_stream import QueryStream
from skysail_common.errors import (
    DeadlineExceeded,
    InvalidInput,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    SkysailError,
    Unavailable,
)
from skysail_protos.v1 import query_pb2, query_pb2_grpc, tensors_pb2

BREAK = query_pb2.PredictStreamResponse()
"""An answer that ends the stream."""

Answer = Callable[[query_pb2.PredictRequest], query_pb2.PredictStreamResponse | None]


def well(request: query_pb2.PredictRequest) -> query_pb2.PredictStreamResponse:
    response = query_pb2.PredictResponse(query_id=request.query_id, model=request.target)
    return query_pb2.PredictStreamResponse(query_id=request.query_id, response=response)


def failing(code: int, message: str, reason: str) -> Answer:
    def answer(request: query_pb2.PredictRequest) -> query_pb2.PredictStreamResponse:
        error = query_pb2.QueryError(code=code, message=message, reason=reason)
        return query_pb2.PredictStreamResponse(query_id=request.query_id, error=error)

    return answer


class FakeFrontend(query_pb2_grpc.QueryServiceServicer):
    """A frontend with scripted answers; None leaves a query unanswered."""

    def __init__(self, answer: Answer = well) -> None:
        self.answer = answer
        self.asked: list[query_pb2.PredictRequest] = []
        self.num_streams = 0
        self.ends_well = False
        self.endpoint = ""
        self.send: Any = None
        self.server = grpc.aio.server()
        query_pb2_grpc.add_QueryServiceServicer_to_server(self, self.server)

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.asked]

    async def PredictStream(self, requests: AsyncIterator[Any], context: Any) -> None:
        self.num_streams += 1
        self.send = context.write
        async for request in requests:
            self.asked.append(request)
            answer = self.answer(request)
            if answer is BREAK:
                if not self.ends_well:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
                return
            if answer is not None:
                await context.write(answer)
            if request.target == "last":
                return


@asynccontextmanager
async def frontend(answer: Answer = well) -> AsyncIterator[FakeFrontend]:
    fake = FakeFrontend(answer)
    fake.endpoint = f"127.0.0.1:{fake.server.add_insecure_port('127.0.0.1:0')}"
    await fake.server.start()
    try:
        yield fake
    finally:
        await fake.server.stop(None)


class Finder:
    """Stands for the list of frontends that management has."""

    def __init__(self, *found: FakeFrontend | str) -> None:
        self.found = [each if isinstance(each, str) else each.endpoint for each in found]
        self.num_calls = 0
        self.failures = 0
        """Number of failures to come."""

    async def __call__(self) -> list[str]:
        self.num_calls += 1
        if self.failures or not self.found:
            self.failures = max(0, self.failures - 1)
            raise Unavailable("no frontend follows management")
        return self.found


@asynccontextmanager
async def stream_to(*found: FakeFrontend | str) -> AsyncIterator[tuple[QueryStream, Finder]]:
    finder = Finder(*found)
    stream = QueryStream(finder)
    try:
        yield stream, finder
    finally:
        await stream.close()


def query(target: str) -> query_pb2.PredictRequest:
    return query_pb2.PredictRequest(target=target)


async def model_of(stream: QueryStream, target: str, timeout_s: float = 10.0) -> str:
    return (await stream.ask(query(target), timeout_s)).model


def asking(stream: QueryStream, *targets: str, timeout_s: float = 10.0) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(model_of(stream, target, timeout_s)) for target in targets]


async def eventually(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    end = monotonic() + timeout_s
    while not condition():
        assert monotonic() < end, "not in time"
        await asyncio.sleep(0.005)


async def test_all_queries_go_on_one_stream_and_answers_come_in_any_order():
    held: list[query_pb2.PredictRequest] = []

    def last_first(request):
        held.append(request)

    async with frontend(last_first) as one, stream_to(one) as (stream, finder):
        tasks = asking(stream, "a", "b", "c")
        await eventually(lambda: len(held) == 3)
        for request in reversed(held):
            await one.send(well(request))
        assert await asyncio.gather(*tasks) == ["a", "b", "c"]
        one.answer = well
        assert await model_of(stream, "d") == "d"
        assert (one.num_streams, finder.num_calls) == (1, 1)


async def test_ids_are_unique_among_clients():
    async with frontend() as one, stream_to(one) as (first, _), stream_to(one) as (second, _):
        for stream in (first, second):
            await asyncio.gather(*asking(stream, *map(str, range(100))))
        assert len({request.query_id for request in one.asked}) == 200


@pytest.mark.parametrize("ends_well", [True, False])
async def test_unanswered_queries_go_to_another_frontend(ends_well):
    def answer(request):
        return {"answered": well(request), "breaks": BREAK}.get(request.target)

    async with frontend(answer) as one, frontend() as other:
        one.ends_well = ends_well
        async with stream_to(one, other) as (stream, finder):
            assert await model_of(stream, "answered") == "answered"
            tasks = asking(stream, "held", "too")
            await eventually(lambda: len(one.asked) == 3)
            tasks += asking(stream, "breaks")
            assert await asyncio.gather(*tasks) == ["held", "too", "breaks"]
            assert other.targets == ["held", "too", "breaks"]
            assert [each.query_id for each in other.asked] == [
                each.query_id for each in one.asked[1:]
            ]
            # A retry has the remaining time as its timeout.
            for before, after in zip(one.asked[1:], other.asked, strict=True):
                assert 10 > _seconds(before) > _seconds(after) > 8
            assert (one.num_streams, other.num_streams, finder.num_calls) == (1, 1, 1)


def _seconds(request: query_pb2.PredictRequest) -> float:
    return request.timeout.seconds + request.timeout.nanos / 1e9


async def test_a_frontend_that_dies_loses_no_query():
    async with frontend() as other, frontend(lambda _: None) as one:
        async with stream_to(one, other) as (stream, _):
            tasks = asking(stream, *map(str, range(50)))
            await eventually(lambda: len(one.asked) == 50)
            await one.server.stop(0)
            assert await asyncio.gather(*tasks) == list(map(str, range(50)))


async def test_queries_return_to_the_only_frontend():
    answers = iter([BREAK, BREAK])
    async with frontend(lambda request: next(answers, None) or well(request)) as one:
        async with stream_to(one) as (stream, finder):
            assert await model_of(stream, "a") == "a"
            assert one.targets == ["a"] * 3
            assert finder.num_calls == 3


@contextmanager
def silent_endpoint() -> Iterator[str]:
    """Accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_frontends_that_are_not_reached_are_passed_over(monkeypatch):
    monkeypatch.setattr(query_stream, "_CONNECT_TIMEOUT_S", 0.1)
    with silent_endpoint() as silent:
        async with frontend() as other, stream_to("127.0.0.1:1", silent, other) as (stream, _):
            assert await model_of(stream, "a") == "a"


async def test_a_closed_port_fails_at_once():
    message = r"^no frontend is reached at 127\.0\.0\.1:1; if frontends are reached elsewhere"
    async with stream_to("127.0.0.1:1") as (stream, _):
        for timeout_s in (0.3, 30):
            begin = monotonic()
            with pytest.raises(Unavailable, match=message):
                await stream.ask(query("a"), timeout_s)
            assert monotonic() - begin < 2


async def test_a_silent_endpoint_fails_at_the_connect_timeout(monkeypatch):
    monkeypatch.setattr(query_stream, "_CONNECT_TIMEOUT_S", 0.2)
    with silent_endpoint() as silent:
        async with stream_to(silent) as (stream, _):
            begin = monotonic()
            with pytest.raises(Unavailable, match=f"^no frontend is reached at {silent};"):
                await stream.ask(query("a"), 30)
            assert 0.2 <= monotonic() - begin < 2


async def test_queries_wait_for_a_frontend_that_restarts():
    async with frontend(lambda _: BREAK) as one, stream_to(one) as (stream, _):
        (task,) = asking(stream, "a")
        await eventually(lambda: one.asked)
        await one.server.stop(None)
        await eventually(lambda: "is reached" in stream._why)
        again = FakeFrontend()
        again.server.add_insecure_port(one.endpoint)
        await again.server.start()
        assert await task == "a"
        await again.server.stop(None)


async def test_answered_and_cancelled_queries_are_not_sent_again():
    async with frontend(lambda _: None) as one, frontend() as other:
        async with stream_to(one, other) as (stream, _):
            gone, late, kept = [
                *asking(stream, "gone"),
                *asking(stream, "late", timeout_s=0.1),
                *asking(stream, "kept"),
            ]
            await eventually(lambda: len(one.asked) == 3)
            gone.cancel()
            await eventually(gone.done)
            late_at = monotonic() + 0.1
            await eventually(lambda: monotonic() > late_at)
            await one.server.stop(0)
            assert await kept == "kept"
            # The query has expired, although its caller waits a little longer for an answer in flight.
            assert other.targets == ["kept"]
            with pytest.raises(DeadlineExceeded):
                await late


async def test_the_stream_reconnects_only_for_a_query():
    async with frontend() as one, stream_to(one) as (stream, finder):
        assert await model_of(stream, "a") == "a"
        # An answer without a waiting caller is ignored.
        await one.send(well(query("nobody")))
        assert await model_of(stream, "last") == "last"
        await eventually(lambda: not _tasks_of_streams())
        assert (one.num_streams, finder.num_calls) == (1, 1)
        assert await model_of(stream, "b") == "b"
        assert (one.num_streams, finder.num_calls) == (2, 2)


async def test_the_stream_does_not_reconnect_for_a_cancelled_query(monkeypatch):
    monkeypatch.setattr(query_stream, "_FIRST_RETRY_S", 0.2)
    async with frontend(lambda _: BREAK) as one, frontend() as other:
        async with stream_to(one, other) as (stream, _):
            (task,) = asking(stream, "a")
            await eventually(lambda: one.asked)
            task.cancel()
            await eventually(lambda: not _tasks_of_streams())
            assert other.num_streams == 0


def _tasks_of_streams() -> list[str]:
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith("query stream")]


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (5, "ModelNotFound", ModelNotFound),
        (13, "ModelFailed", ModelFailed),
        # The status replaces an unknown class of a newer server.
        (8, "FullerThanFull", Overloaded),
        (3, "", InvalidInput),
        (99, "", SkysailError),
    ],
)
async def test_an_error_has_its_class_and_the_stream_continues(code, reason, kind):
    fails = failing(code, "this is why", reason)
    async with frontend(lambda each: fails(each) if each.target == "bad" else well(each)) as one:
        async with stream_to(one) as (stream, _):
            bad, good = asking(stream, "bad", "good")
            with pytest.raises(SkysailError, match=r"^this is why$") as raised:
                await bad
            assert type(raised.value) is kind
            assert await good == "good"
            assert one.num_streams == 1


async def test_a_query_without_an_answer_times_out(monkeypatch):
    monkeypatch.setattr(query_stream, "_SLACK_S", 0.05)
    async with frontend(lambda _: None) as one, stream_to(one) as (stream, _):
        begin = monotonic()
        with pytest.raises(DeadlineExceeded, match=r"^no frontend answered within 0\.2 s"):
            await stream.ask(query("a"), 0.2)
        assert 0.2 <= monotonic() - begin < 1
        # A late answer is ignored.
        await one.send(well(one.asked[0]))
        one.answer = well
        assert await model_of(stream, "b") == "b"
        assert one.num_streams == 1


async def test_a_timeout_names_the_connection_error(monkeypatch):
    monkeypatch.setattr(query_stream, "_SLACK_S", 0.05)
    async with frontend(lambda _: BREAK) as one, stream_to(one) as (stream, _):
        with pytest.raises(DeadlineExceeded, match=r"ended the stream|going away"):
            await stream.ask(query("a"), 0.3)


async def test_close_fails_unanswered_queries():
    async with frontend(lambda _: None) as one, stream_to(one) as (stream, _):
        tasks = asking(stream, "a", "b")
        await eventually(lambda: len(one.asked) == 2)
        await stream.close()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, Unavailable)
            assert error.message == "the client was closed"
        assert not _tasks_of_streams()
        # The next query connects again.
        one.answer = well
        assert await model_of(stream, "c") == "c"


async def test_close_fails_queries_that_wait_for_a_connection():
    with silent_endpoint() as silent:
        async with stream_to(silent) as (stream, finder):
            (task,) = asking(stream, "a")
            await eventually(lambda: finder.num_calls)
            await stream.close()
            with pytest.raises(Unavailable, match="the client was closed"):
                await task


async def test_a_query_without_a_frontend_fails_at_once():
    async with frontend() as one, stream_to() as (stream, finder):
        begin = monotonic()
        for target in ("a", "b"):
            with pytest.raises(Unavailable, match=r"^no frontend follows management$"):
                await stream.ask(query(target), 10)
        assert monotonic() - begin < 1
        finder.found = [one.endpoint]
        assert await model_of(stream, "c") == "c"


async def test_queries_wait_for_a_frontend_after_a_loss():
    async with frontend(lambda _: BREAK) as one, frontend() as other:
        async with stream_to(one) as (stream, finder):
            (task,) = asking(stream, "a")
            await eventually(lambda: one.asked)
            finder.found, finder.failures = [other.endpoint], 3
            assert await task == "a"
            assert finder.num_calls == 5


async def test_queries_fail_if_no_frontend_returns_after_a_loss(monkeypatch):
    monkeypatch.setattr(query_stream, "_PATIENCE_S", 0.2)
    async with frontend(lambda _: BREAK) as one, stream_to(one) as (stream, finder):
        (task,) = asking(stream, "a")
        await eventually(lambda: one.asked)
        lost = monotonic()
        finder.found = []
        with pytest.raises(Unavailable, match=r"^no frontend follows management$"):
            await task
        assert 0.1 < monotonic() - lost < 2


async def test_an_internal_error_fails_queries_at_once():
    async def find() -> list[str]:
        raise KeyError("oops")

    stream = QueryStream(find)
    with pytest.raises(SkysailError, match=r"internal error of the client: KeyError\('oops'\)"):
        await stream.ask(query("a"), 10)
    await stream.close()


@pytest.mark.parametrize("timeout_s", [1e9, float("inf"), float("nan")])
async def test_an_illegal_timeout_does_not_affect_other_queries(timeout_s):
    async with frontend() as one, stream_to(one) as (stream, _):
        assert await model_of(stream, "a") == "a"
        with pytest.raises(InvalidInput, match="a duration is at most a year"):
            await stream.ask(query("b"), timeout_s)
        assert await model_of(stream, "c") == "c"
        assert (one.targets, one.num_streams) == (["a", "c"], 1)


async def test_an_oversized_query_does_not_affect_others():
    limit = 4 * 1024 * 1024  # That of a server of gRPC that says nothing else.
    large = query("b")
    large.inputs.append(tensors_pb2.Tensor(name="x", data=bytes(limit)))
    async with frontend(lambda asked: None if asked.target == "waits" else well(asked)) as one:
        async with stream_to(one) as (stream, _):
            assert await model_of(stream, "a") == "a"
            (waits,) = asking(stream, "waits")
            await eventually(lambda: "waits" in one.targets)
            for _ in range(3):
                with pytest.raises(
                    InvalidInput, match=f"; the limit is {limit}, which SKYSAIL_FRO"
                ):
                    await stream.ask(large, 10)
            assert await model_of(stream, "c") == "c"
            # The first query reveals the limit; the waiting ones are sent again.
            assert one.num_streams == 2
            assert one.targets.count("waits") == 2
            waits.cancel()
            await asyncio.gather(waits, return_exceptions=True)


async def test_a_limit_is_forgotten_with_the_frontend_that_has_it():
    large = query("b")
    large.inputs.append(tensors_pb2.Tensor(name="x", data=bytes(4 * 1024 * 1024)))
    async with frontend() as one, stream_to(one) as (stream, _):
        for expected_streams in (1, 3):
            with pytest.raises(InvalidInput):
                await stream.ask(large, 10)
            assert one.num_streams == expected_streams
            assert await model_of(stream, "last") == "last"
            await asyncio.sleep(0.05)


async def test_an_expired_query_is_not_sent(monkeypatch):
    monkeypatch.setattr(query_stream, "_SLACK_S", 0.0)
    async with frontend() as one, stream_to(one) as (stream, _):
        with pytest.raises(DeadlineExceeded):
            await stream.ask(query("a"), -1)
        assert await model_of(stream, "b") == "b"
        assert one.targets == ["b"]
