"""Every transport answers unary calls of a grpcio client in the same way."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from skysail_common.clock import MONOTONIC, NEVER
from skysail_common.errors import Backlog, InvalidInput, Overloaded
from skysail_common.rpc.contract import Call, Stream
from skysail_testing.transports import (
    LIMIT_BYTES,
    SERVICE,
    STREAM,
    WAIT_S,
    calling,
    echo,
    failure,
    serving,
    trailers_of,
    unary_call,
)


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, 3_000_000])
@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_a_call_is_answered(transport, size, where, tmp_path: Path):
    address = "127.0.0.1:0" if where == "tcp" else f"unix:{tmp_path}/s"
    async with serving(transport, echo, address=address) as (_, endpoint):
        async with calling(endpoint) as channel:
            message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            assert await unary_call(channel)(message, timeout=WAIT_S) == message


async def test_soon_callbacks_may_reply_and_schedule_more(transport):
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


async def test_only_the_first_answer_counts(transport):
    loop = asyncio.get_running_loop()

    def handler(call: Call) -> None:
        def answer() -> None:
            call.reply(b"first")
            call.reply(b"second")
            call.fail(InvalidInput("third"))

        loop.call_later(0.01, answer)

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        assert await unary_call(channel)(b"", timeout=WAIT_S) == b"first"


async def test_concurrent_calls_get_their_own_answers(transport):
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


async def test_a_shed_call_has_a_retry_delay(transport):
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
            # A client rejects sizes between its soft and hard limit at random, so ten calls are made.
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


async def test_an_exception_in_a_handler_fails_only_its_call(transport, caplog):
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


async def test_metadata_and_trailers_arrive(transport):
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


async def test_the_arrival_lies_between_send_and_handler(transport):
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


async def test_an_unanswered_call_is_cancelled_at_its_deadline(transport):
    cancelled = asyncio.Event()

    def handler(call: Call) -> None:
        call.on_cancel(cancelled.set)

    async with serving(transport, handler) as (_, endpoint), calling(endpoint) as channel:
        error = await failure(unary_call(channel)(b"", timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(cancelled.wait(), WAIT_S)


async def test_a_cancelled_call_runs_its_callback_once(transport):
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


async def test_compressed_messages_are_decompressed(transport):
    async with serving(transport, echo) as (_, endpoint), calling(endpoint) as channel:
        call = unary_call(channel)(b"z" * 100_000, compression=grpc.Compression.Gzip)
        assert await asyncio.wait_for(call, WAIT_S) == b"z" * 100_000
