"""Every transport through the same tests, with grpcio as the peer."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from skysail_common.clock import MONOTONIC, NEVER
from skysail_common.errors import (
    Backlog,
    FailedPrecondition,
    InvalidInput,
    Overloaded,
    SkysailError,
    Unavailable,
)
from skysail_common.rpc.certificates import ServerCertificates
from skysail_common.rpc.channels import open_channel
from skysail_common.rpc.contract import Call, Server, Stream, Transport
from skysail_common.rpc.transports import open_transport
from skysail_testing.certificates import Certificate
from skysail_testing.clock import FakeClock

SERVICE = "skysail.test.Test"
UNARY = f"/{SERVICE}/Unary"
STREAM = f"/{SERVICE}/Stream"
LIMIT_BYTES = 4 * 1024 * 1024
WAIT_S = 10.0


@pytest.fixture(params=["grpc", "native"])
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    if request.param == "native" and importlib.util.find_spec("skysail_transport") is None:
        pytest.skip("native transport is not installed")
    transport = open_transport(request.param, LIMIT_BYTES)
    yield transport
    transport.close()


@asynccontextmanager
async def serving(
    transport: Transport,
    unary: Callable[[Call], None] | None = None,
    stream: Callable[[Stream], Awaitable[None]] | None = None,
    address: str = "127.0.0.1:0",
    certificates: ServerCertificates | None = None,
) -> AsyncIterator[tuple[Server, str]]:
    """Serve the handlers; yields the server and its endpoint."""
    server = transport.server(
        [SERVICE],
        {UNARY: unary} if unary else {},
        {STREAM: stream} if stream else {},
        certificates=certificates,
    )
    port = server.bind(address)
    await server.start()
    try:
        yield server, address.replace(":0", f":{port}")
    finally:
        await server.stop(0.1)


@asynccontextmanager
async def calling(
    endpoint: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(endpoint, credentials=credentials) as channel:
        yield channel


def unary_call(channel: grpc.aio.Channel, path: str = UNARY) -> Any:
    return channel.unary_unary(path)


def echo(call: Call) -> None:
    call.reply(call.message)


async def echo_stream(stream: Stream) -> None:
    async for message in stream:
        await stream.send(message)


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(call, WAIT_S)
    return caught.value


def trailers_of(error: grpc.aio.AioRpcError) -> Mapping[str, Any]:
    return dict(error.trailing_metadata())  # type: ignore[arg-type]


# Unary calls.


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 3_000_000])
@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_a_call_is_answered(transport, size, where, tmp_path: Path):
    address = "127.0.0.1:0" if where == "tcp" else f"unix:{tmp_path}/s"
    async with serving(transport, echo, address=address) as (_, endpoint):
        async with calling(endpoint) as channel:
            message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            assert await unary_call(channel)(message, timeout=WAIT_S) == message


async def test_what_is_called_for_soon_may_answer_and_call_for_more(transport):
    def handler(call: Call) -> None:
        order = ["handler"]

        def again() -> None:
            order.append("callback")
            if len(order) < 4:
                transport.call_soon(again)
            else:
                transport.call_later(0.001, lambda: call.reply(" ".join(order).encode()))

        transport.call_soon(again)
        order.append("still handler")

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        answer = await unary_call(channel)(b"", timeout=WAIT_S)
    assert answer == b"handler still handler callback callback"


async def test_an_answer_may_come_later_and_only_the_first_counts(transport):
    loop = asyncio.get_running_loop()

    def handler(call: Call) -> None:
        def answer() -> None:
            call.reply(b"first")
            call.reply(b"second")
            call.fail(InvalidInput("third"))

        loop.call_later(0.01, answer)

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        assert await unary_call(channel)(b"", timeout=WAIT_S) == b"first"


async def test_many_calls_at_once_get_each_its_own_answer(transport):
    loop = asyncio.get_running_loop()

    def handler(call: Call) -> None:
        loop.call_soon(call.reply, call.message)

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        call = unary_call(channel)
        messages = [str(index).encode() for index in range(500)]
        assert await asyncio.gather(*(call(each, timeout=WAIT_S) for each in messages)) == messages


async def test_an_error_has_its_status_text_and_class(transport):
    def handler(call: Call) -> None:
        call.fail(InvalidInput("too wide: é 100 % 中\n"))

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        error = await failure(unary_call(channel)(b""))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "too wide: é 100 % 中\n"
    assert trailers_of(error)["skysail-reason"] == "InvalidInput"


async def test_what_is_shed_says_when_to_retry(transport):
    def handler(call: Call) -> None:
        error = Overloaded("full")
        error.backlog = Backlog("queue_full", 7, 0.02)
        call.fail(error)

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        error = await failure(unary_call(channel)(b""))
    assert trailers_of(error)["retry-after-ms"] == "20"
    assert b"RetryInfo" in trailers_of(error)["grpc-status-details-bin"]


@pytest.mark.parametrize("text", ["日" * 10_000, "\n%" * 10_000, "x" * 40_000, "\U0001f600" * 9000])
@pytest.mark.parametrize("is_shed", [False, True])
async def test_a_long_text_keeps_its_status_and_its_beginning(transport, text, is_shed):
    error = Overloaded(text)
    if is_shed:
        error.backlog = Backlog("queue_full", 1_000_000, 60.0)

    def handler(call: Call) -> None:
        raise error

    async def stream_handler(stream: Stream) -> None:
        raise error

    async with serving(transport, handler, stream_handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            # Between the soft and the hard limit of a client it is chance that decides.
            calls = [unary_call(channel)(b"", timeout=WAIT_S) for _ in range(10)]
            calls.append(channel.stream_stream(STREAM)(timeout=WAIT_S).read())
            for call in calls:
                raised = await failure(call)
                assert raised.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                beginning, _, end = raised.details().rpartition(" ")
                assert len(beginning) > 300
                assert text.startswith(beginning)
                assert end == "…"
                assert trailers_of(raised)["skysail-reason"] == "Overloaded"


async def test_a_handler_that_raises_fails_its_call_alone(transport, caplog):
    def handler(call: Call) -> None:
        if call.message == b"ours":
            raise InvalidInput("no")
        if call.message == b"mistake":
            raise ZeroDivisionError("secret")
        call.reply(b"ok")

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        call = unary_call(channel)
        assert (await failure(call(b"ours"))).details() == "no"
        mistake = await failure(call(b"mistake"))
        assert mistake.code() is grpc.StatusCode.INTERNAL
        assert "secret" not in str(mistake.details())
        assert await call(b"", timeout=WAIT_S) == b"ok"
    assert "ZeroDivisionError" in caplog.text


async def test_an_unknown_method_is_unimplemented(transport):
    async with serving(transport, echo) as (_, endpoint), calling(endpoint) as channel:
        error = await failure(unary_call(channel, f"/{SERVICE}/Other")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_goes_both_ways(transport):
    seen: dict[str, Any] = {}

    def handler(call: Call) -> None:
        seen.update(call.metadata())
        call.reply(b"", [("answer", "two"), ("raw-bin", b"\xff\x00")])

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        call = unary_call(channel)(b"", metadata=[("word", "one"), ("bytes-bin", b"\x00\xfe")])
        await asyncio.wait_for(call, WAIT_S)
        trailers = dict(await call.trailing_metadata())
    assert seen["word"] == "one"
    assert seen["bytes-bin"] == b"\x00\xfe"
    assert trailers["answer"] == "two"
    assert trailers["raw-bin"] == b"\xff\x00"


async def test_the_deadline_is_an_instant_of_the_monotonic_clock(transport):
    seen: list[float] = []

    def handler(call: Call) -> None:
        seen.append(call.deadline - MONOTONIC())
        seen.append(call.deadline)
        call.reply(b"")

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        await unary_call(channel)(b"", timeout=5.0)
        await asyncio.wait_for(unary_call(channel)(b""), WAIT_S)
    assert 3.0 < seen[0] <= 5.1
    assert seen[3] == NEVER


async def test_the_arrival_is_between_the_sending_and_the_handler(transport):
    seen: list[tuple[float, float]] = []

    def handler(call: Call) -> None:
        seen.append((call.arrival, MONOTONIC()))
        call.reply(b"")

    async def stream_handler(stream: Stream) -> None:
        async for message in stream:
            seen.append((stream.arrival, MONOTONIC()))
            await stream.send(message)

    async with serving(transport, handler, stream_handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            sent = [MONOTONIC()]
            await unary_call(channel)(b"", timeout=WAIT_S)
            stream = channel.stream_stream(STREAM)(timeout=WAIT_S)
            for _ in range(2):
                sent.append(MONOTONIC())
                await stream.write(b"x")
                assert await asyncio.wait_for(stream.read(), WAIT_S) == b"x"
            stream.cancel()
    for begin, (arrival, end) in zip(sent, seen, strict=True):
        assert begin <= arrival <= end


async def test_a_call_without_an_answer_ends_at_its_deadline_and_is_told(transport):
    cancelled = asyncio.Event()

    def handler(call: Call) -> None:
        call.on_cancel(cancelled.set)

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        error = await failure(unary_call(channel)(b"", timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(cancelled.wait(), WAIT_S)


async def test_a_caller_that_goes_away_is_told_once(transport):
    arrived, cancelled = asyncio.Event(), []
    gone = asyncio.Event()

    def handler(call: Call) -> None:
        def on_cancel() -> None:
            cancelled.append(call)
            gone.set()
            call.reply(b"too late")

        call.on_cancel(on_cancel)
        arrived.set()

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        call = unary_call(channel)(b"")
        await asyncio.wait_for(arrived.wait(), WAIT_S)
        call.cancel()
        await asyncio.wait_for(gone.wait(), WAIT_S)
        assert len(cancelled) == 1


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 3 * LIMIT_BYTES])
async def test_a_message_over_the_limit_is_refused(transport, size):
    async with serving(transport, echo) as (_, endpoint), calling(endpoint) as channel:
        error = await failure(unary_call(channel)(b"x" * size))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await unary_call(channel)(b"small", timeout=WAIT_S) == b"small"


async def test_compressed_messages_are_read(transport):
    async with serving(transport, echo) as (_, endpoint), calling(endpoint) as channel:
        call = unary_call(channel)(b"z" * 100_000, compression=grpc.Compression.Gzip)
        assert await asyncio.wait_for(call, WAIT_S) == b"z" * 100_000


# Streams.


async def test_messages_of_a_stream_come_in_order(transport):
    messages = [str(index).encode() * 10 for index in range(300)]

    async def asked() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async with serving(transport, stream=echo_stream) as (_, endpoint):
        async with calling(endpoint) as channel:
            answers = [
                each async for each in channel.stream_stream(STREAM)(asked(), timeout=WAIT_S)
            ]
    assert answers == messages


async def test_a_large_message_passes_a_stream(transport):
    async with serving(transport, stream=echo_stream) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await call.write(b"m" * 3_000_000)
            assert await call.read() == b"m" * 3_000_000
            call.cancel()


async def test_a_stream_is_accepted_before_there_is_a_message(transport):
    async def handler(stream: Stream) -> None:
        await stream.accept()
        await echo_stream(stream)

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await asyncio.wait_for(call.initial_metadata(), WAIT_S)
            await call.write(b"a")
            assert await call.read() == b"a"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("is_accepted", [False, True])
async def test_a_stream_ends_with_the_error_of_its_handler(transport, is_accepted):
    async def handler(stream: Stream) -> None:
        if is_accepted:
            await stream.send(b"first")
        raise Unavailable("no more")

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=WAIT_S)
            if is_accepted:
                assert await call.read() == b"first"
            assert (await failure(call.read())).code() is grpc.StatusCode.UNAVAILABLE
            assert await call.details() == "no more"


async def test_a_client_that_goes_away_ends_the_handler_of_its_stream(transport):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handler(stream: Stream) -> None:
        begun.set()
        try:
            async for _ in stream:
                pass
        finally:
            ended.set()

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)()
            await call.write(b"a")
            await asyncio.wait_for(begun.wait(), WAIT_S)
            call.cancel()
            await asyncio.wait_for(ended.wait(), WAIT_S)


async def test_sending_waits_for_a_client_that_does_not_read(transport):
    sent_bytes = 0

    async def handler(stream: Stream) -> None:
        nonlocal sent_bytes
        for _ in range(2000):
            await stream.send(b"s" * 50_000)
            sent_bytes += 50_000

    async with serving(transport, stream=handler) as (_, endpoint):
        async with calling(endpoint) as channel:
            call = channel.stream_stream(STREAM)(timeout=60)
            await call.read()
            before = -1
            while before != sent_bytes:
                before = sent_bytes
                await asyncio.sleep(0.2)
            # Of 100 MB; the kernel alone may take 30.
            assert sent_bytes < 50_000_000
            call.cancel()


# Links.


class Observer:
    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()

    def link_received(self, message: bytes) -> None:
        self.messages.put_nowait(message)

    def link_closed(self, reason: str, has_died: bool) -> None:
        self.closed.set_result((reason, has_died))

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.messages.get(), WAIT_S)


async def accepting(stream: Stream) -> None:
    await stream.accept()
    async for message in stream:
        if message == b"end":
            return
        if message == b"fail":
            raise Unavailable("draining")
        await stream.send(message)


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_a_link_carries_messages_both_ways(transport, where, tmp_path: Path):
    address = "127.0.0.1:0" if where == "tcp" else f"unix:{tmp_path}/s"
    async with serving(transport, stream=accepting, address=address) as (_, endpoint):
        observer = Observer()
        link = await transport.connect(endpoint, STREAM, observer)
        for message in (b"", b"one", b"x" * 3_000_000):
            link.send(message)
            assert await observer.next() == message
        link.close()
        link.send(b"after")
        await asyncio.sleep(0)
        assert not observer.closed.done()


@pytest.mark.parametrize(("last", "has_died"), [(b"end", False), (b"fail", True)])
async def test_a_link_tells_how_it_ended(transport, last, has_died):
    async with serving(transport, stream=accepting) as (_, endpoint):
        observer = Observer()
        link = await transport.connect(endpoint, STREAM, observer)
        link.send(last)
        reason, died = await asyncio.wait_for(observer.closed, WAIT_S)
        assert died is has_died
        assert reason
        link.send(b"after")
        link.close()


async def test_a_peer_that_is_not_there_is_unavailable(transport, tmp_path: Path):
    with pytest.raises(Unavailable, match="does not take batches"):
        await asyncio.wait_for(
            transport.connect(f"unix:{tmp_path}/nobody", STREAM, Observer()), WAIT_S
        )


@pytest.mark.parametrize(
    ("refusal", "raised"),
    [
        (Unavailable("not ready yet"), Unavailable),
        (FailedPrecondition("somebody else"), FailedPrecondition),
        (InvalidInput("no such stream"), Unavailable),
    ],
)
async def test_a_peer_refuses_a_link_by_what_is_sent_with_it(transport, refusal, raised):
    async def refusing(stream: Stream) -> None:
        if stream.metadata().get("skysail-test") != "please":
            raise refusal
        await accepting(stream)

    async with serving(transport, stream=refusing) as (_, endpoint):
        with pytest.raises(raised, match=f"does not take batches: {refusal}"):
            await asyncio.wait_for(transport.connect(endpoint, STREAM, Observer()), WAIT_S)
        observer = Observer()
        link = await transport.connect(endpoint, STREAM, observer, (("skysail-test", "please"),))
        link.send(b"one")
        assert await observer.next() == b"one"
        link.close()


# Servers.


async def test_health_says_whether_calls_are_taken(transport):
    async with serving(transport, echo) as (server, endpoint), calling(endpoint) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def status(service: str = SERVICE) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            return int((await stub.Check(request, timeout=WAIT_S)).status)

        assert await status() == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_serving(True)
        assert await status() == health_pb2.HealthCheckResponse.SERVING
        assert await status("") == health_pb2.HealthCheckResponse.SERVING
        unknown = await failure(stub.Check(health_pb2.HealthCheckRequest(service="unknown")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(transport):
    async with serving(transport, echo) as (server, endpoint), calling(endpoint) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=WAIT_S)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_serving(True)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_reflection_lists_the_services(transport):
    async with serving(transport, echo) as (_, endpoint), calling(endpoint) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(timeout=WAIT_S)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {each.name for each in (await call.read()).list_services_response.service}
        call.cancel()
    assert {SERVICE, "grpc.reflection.v1alpha.ServerReflection", "grpc.health.v1.Health"} <= listed


async def test_an_address_in_use_is_refused(transport):
    async with serving(transport, echo) as (_, endpoint):
        other = transport.server([SERVICE], {UNARY: echo}, {})
        with pytest.raises(FailedPrecondition, match=f"cannot listen on {endpoint}"):
            other.bind(endpoint)


async def test_a_server_that_stops_answers_what_is_under_way(transport):
    calls: list[Call] = []
    arrived = asyncio.Event()

    def handler(call: Call) -> None:
        calls.append(call)
        arrived.set()

    async with serving(transport, handler) as (server, endpoint), calling(endpoint) as channel:
        answer = asyncio.ensure_future(unary_call(channel)(b"", timeout=WAIT_S))
        await asyncio.wait_for(arrived.wait(), WAIT_S)
        stopping = asyncio.create_task(server.stop(WAIT_S))
        await asyncio.sleep(0.05)
        calls[0].reply(b"last")
        assert await answer == b"last"
        await asyncio.wait_for(stopping, WAIT_S)


async def test_what_is_not_over_when_the_time_to_stop_is_ends(transport):
    arrived, cancelled, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def handler(call: Call) -> None:
        call.on_cancel(cancelled.set)
        arrived.set()

    async def endless(stream: Stream) -> None:
        await stream.accept()
        try:
            async for _ in stream:
                pass
        finally:
            ended.set()

    async with serving(transport, handler, endless) as (server, endpoint):
        async with calling(endpoint) as channel:
            answer = asyncio.ensure_future(unary_call(channel)(b"", timeout=WAIT_S))
            stream = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await asyncio.wait_for(stream.initial_metadata(), WAIT_S)
            await asyncio.wait_for(arrived.wait(), WAIT_S)
            await asyncio.wait_for(server.stop(0.1), WAIT_S)
            assert (await failure(answer)).code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.wait_for(cancelled.wait(), WAIT_S)
            await asyncio.wait_for(ended.wait(), WAIT_S)


@pytest.mark.parametrize("kind", ["grpc", "native"])
async def test_a_server_that_is_added_gets_its_share_of_a_client_that_never_leaves(kind: str):
    if kind == "native":
        pytest.importorskip("skysail_transport", reason="native transport is not installed")
    asked = dict.fromkeys("ab", 0)
    slow: list[Call] = []

    def answering(name: str) -> Callable[[Call], None]:
        def handler(call: Call) -> None:
            asked[name] += 1
            if call.message == b"slow":
                slow.append(call)
            else:
                call.reply(call.message)

        return handler

    async with AsyncExitStack() as stack:
        port = 0
        channel = call = None
        for name in asked:
            transport = open_transport(kind, LIMIT_BYTES, max_connection_age_s=0.1)
            stack.callback(transport.close)
            server = transport.server([SERVICE], {UNARY: answering(name)}, {}, shares_port=True)
            port = server.bind(f"127.0.0.1:{port}")
            await server.start()
            stack.push_async_callback(server.stop, 0.1)
            if channel is None:
                channel = await stack.enter_async_context(calling(f"127.0.0.1:{port}"))
                call = unary_call(channel)(b"slow", timeout=WAIT_S)
                while not slow:
                    await unary_call(channel)(b"x", timeout=WAIT_S)
        assert channel is not None
        assert call is not None
        # Each new connection is the one's or the other's by chance.
        end = MONOTONIC() + WAIT_S
        while not asked["b"] and MONOTONIC() < end:
            assert await unary_call(channel)(b"x", timeout=WAIT_S) == b"x"
        assert asked["b"]
        slow[0].reply(b"done")
        assert await asyncio.wait_for(call, WAIT_S) == b"done"


# What only the native transport has to take care of.


@pytest.fixture
async def native() -> AsyncIterator[Any]:
    module = pytest.importorskip(
        "skysail_common.rpc.native.transport", reason="native transport is not installed"
    )
    transport = module.NativeTransport(LIMIT_BYTES)
    yield transport
    transport.close()


async def test_an_unknown_method_of_a_long_name_is_unimplemented(native):
    async with serving(native, echo) as (_, endpoint), calling(endpoint) as channel:
        for _ in range(10):
            error = await failure(unary_call(channel, f"/{SERVICE}/{'x' * 12_000}")(b""))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert len(error.details() or "") < 200


async def test_an_answer_that_cannot_be_sent_ends_its_own_call_only(native, caplog):
    def handler(call: Call) -> None:
        if call.message == b"bad":
            call.reply(b"", [("k", "no ascii: é")])
        else:
            call.reply(call.message)

    async with serving(native, handler) as (_, endpoint), calling(endpoint) as channel:
        call = unary_call(channel)
        asked = [call(each, timeout=WAIT_S) for each in [b"1", b"bad", b"2", b"3"]]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [answers[0], *answers[2:]] == [b"1", b"2", b"3"]
    assert isinstance(answers[1], grpc.aio.AioRpcError)
    assert answers[1].code() is grpc.StatusCode.INTERNAL
    assert "while sending an answer" in caplog.text


async def test_streams_that_end_before_they_are_served_leave_nothing(native):
    async with serving(native, echo, echo_stream) as (_, endpoint), calling(endpoint) as channel:
        for _ in range(20):
            stream = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await stream.write(b"a")
            stream.cancel()
        assert await unary_call(channel)(b"after", timeout=WAIT_S) == b"after"
        for _ in range(100):
            await asyncio.sleep(0.01)
            if not native.counters()["open_calls"]:
                break
        assert not native._streams
        assert not native._serving


async def test_calls_that_were_cancelled_before_they_are_handled_are_not(native):
    handled = 0

    def handler(call: Call) -> None:
        nonlocal handled
        handled += 1

    async with serving(native, handler) as (_, endpoint), calling(endpoint) as channel:
        # What comes in one turn: calls, and that they are over.
        ids = range(1_000_000, 1_000_010)
        native._taken.extend((each, UNARY, b"", None, None, MONOTONIC()) for each in ids)
        for each in ids[:9]:
            native._cancelled(each, "gone")
        native._handle_calls()
        assert handled == 1
        assert not native._gone
        native._cancels.clear()
        assert channel is not None


async def test_a_turn_ends_after_a_large_message_that_took_long(native):
    clock = FakeClock()
    native._clock = clock
    handled: list[bytes] = []

    def handler(call: Call) -> None:
        handled.append(call.message)
        clock.advance(0.1)

    native.server([SERVICE], {UNARY: handler}, {})
    message = bytes(1024 * 1024)
    native._taken.extend((each, UNARY, message, None, None, clock()) for each in range(3))
    for number in (1, 2, 3):
        native._handle_calls()
        assert len(handled) == number
    assert not native._taken


@pytest.mark.parametrize("answer", [None, b"default", InvalidInput("wrong")])
async def test_a_call_that_waited_too_long_is_answered_by_its_late_handler_or_refused(
    native, answer: bytes | SkysailError | None
):
    asked: list[Call] = []

    def late(call: Call) -> bool:
        asked.append(call)
        if isinstance(answer, SkysailError):
            raise answer
        if answer is not None:
            call.reply(answer)
        return answer is not None

    ended: dict[int, Any] = {}
    native.reply = lambda call_id, message: ended.update({call_id: message})
    native.end = lambda call_id, ending: ended.update({call_id: ending[0]})
    native.server([SERVICE], {UNARY: echo}, {}, late={UNARY: late})
    # Each had a second when it arrived; two fifths of it are the most that it may wait.
    now = MONOTONIC()
    for call_id, age_s in ((1, 0.1), (2, 0.5)):
        arrival = now - age_s
        native._taken.append((call_id, UNARY, b"x", arrival + 1.0, None, arrival))
    native._handle_calls()
    assert ended[1] == b"x"
    assert [call.message for call in asked] == [b"x"]
    expected = {None: Overloaded.status, b"default": b"default"}
    assert ended[2] == expected.get(answer, InvalidInput.status)
    assert native.counters()["turned_away"] == 1


async def test_a_callback_that_raises_does_not_keep_the_others_of_its_turn(native, caplog):
    def handler(call: Call) -> None:
        native.call_soon(lambda: 1 / 0)
        native.call_soon(lambda: call.reply(call.message))

    async with serving(native, handler) as (_, endpoint), calling(endpoint) as channel:
        assert await unary_call(channel)(b"x", timeout=WAIT_S) == b"x"
        assert not native._is_in_turn
    assert "unhandled exception in callback" in caplog.text


# TLS.


async def answers(endpoint: str, authority: Certificate, own: Certificate | None = None) -> bool:
    """Tell whether a new connection that trusts an authority is served."""
    shown = (own.key, own.pem) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, *shown)
    async with calling(endpoint, credentials) as channel:
        try:
            return await unary_call(channel)(b"x", timeout=WAIT_S) == b"x"
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise


async def test_calls_and_streams_over_tls(transport, tmp_path: Path):
    authority = Certificate("authority")
    files = Certificate("server", authority).write(tmp_path)
    certificates = ServerCertificates(*files)
    async with serving(transport, echo, echo_stream, certificates=certificates) as (_, endpoint):
        credentials = grpc.ssl_channel_credentials(authority.pem)
        async with calling(endpoint, credentials) as channel:
            message = bytes(3_000_000)
            assert await unary_call(channel)(message, timeout=WAIT_S) == message
            stream = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await stream.write(b"one")
            assert await stream.read() == b"one"
        assert not await answers(endpoint, Certificate("stranger"))
        async with calling(endpoint) as channel:
            error = await failure(unary_call(channel)(b"x", timeout=WAIT_S))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_new_connections_see_renewed_certificates(transport, tmp_path: Path):
    old, new = Certificate("old authority"), Certificate("new authority")
    certificates = ServerCertificates(*Certificate("server", old).write(tmp_path))
    async with serving(transport, echo, certificates=certificates) as (_, endpoint):
        async with calling(endpoint, grpc.ssl_channel_credentials(old.pem)) as channel:
            call = unary_call(channel)
            assert await call(b"before", timeout=WAIT_S) == b"before"
            assert not certificates.renew()
            Certificate("server", new).write(tmp_path)
            assert certificates.renew()
            assert await answers(endpoint, new)
            assert not await answers(endpoint, old)
            assert await call(b"goes on", timeout=WAIT_S) == b"goes on"
            (tmp_path / "..data" / "tls.key").write_bytes(old.key)
            with pytest.raises(FailedPrecondition, match="is not the key of the certificate"):
                certificates.renew()
            assert await answers(endpoint, new)


async def test_mutual_tls_serves_only_clients_of_the_authority(transport, tmp_path: Path):
    authority, others = Certificate("authority"), Certificate("authority of clients")
    (tmp_path / "clients.pem").write_bytes(others.pem)
    files = Certificate("server", authority).write(tmp_path)
    certificates = ServerCertificates(*files, tmp_path / "clients.pem")
    async with serving(transport, echo, certificates=certificates) as (_, endpoint):
        assert await answers(endpoint, authority, Certificate("client", others))
        assert not await answers(endpoint, authority)
        assert not await answers(endpoint, authority, Certificate("client", authority))
        (tmp_path / "clients.pem").write_bytes(authority.pem + b"\n")
        assert certificates.renew()
        assert await answers(endpoint, authority, Certificate("client", authority))
        assert not await answers(endpoint, authority, Certificate("client", others))
