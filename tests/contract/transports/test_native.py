"""Cases that only the native transport has to handle: turns, queues and callbacks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from skysail_common.clock import MONOTONIC
from skysail_common.errors import InvalidInput, Overloaded, SkysailError
from skysail_common.rpc.contract import Call
from skysail_testing.clock import FakeClock
from skysail_testing.transports import (
    LIMIT_BYTES,
    SERVICE,
    STREAM,
    UNARY,
    WAIT_S,
    calling,
    echo,
    echo_stream,
    failure,
    serving,
    unary_call,
)


@pytest.fixture
async def native() -> AsyncIterator[Any]:
    module = pytest.importorskip(
        "skysail_common.rpc.native.transport", reason="native transport is not installed"
    )
    transport = module.NativeTransport(LIMIT_BYTES)
    yield transport
    transport.close()


async def test_an_unknown_method_with_a_long_name_is_unimplemented(native):
    async with serving(native, echo) as (_, endpoint), calling(endpoint) as channel:
        for _ in range(10):
            error = await failure(unary_call(channel, f"/{SERVICE}/{'x' * 12_000}")(b""))
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
            assert len(error.details() or "") < 200


async def test_an_invalid_answer_fails_only_its_own_call(native, caplog):
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


async def test_streams_that_end_before_they_are_served_are_forgotten(native):
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


async def test_calls_cancelled_before_their_turn_are_skipped(native):
    handled = 0

    def handler(call: Call) -> None:
        nonlocal handled
        handled += 1

    async with serving(native, handler) as (_, endpoint), calling(endpoint) as channel:
        # A single turn brings these calls together with their cancellations.
        ids = range(1_000_000, 1_000_010)
        native._taken.extend((each, UNARY, b"", None, None, MONOTONIC()) for each in ids)
        for each in ids[:9]:
            native._cancelled(each, "gone")
        native._handle_calls()
        assert handled == 1
        assert not native._gone
        native._cancels.clear()
        assert channel is not None


async def test_a_turn_ends_after_a_slow_call(native):
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
async def test_a_late_call_goes_to_its_late_handler_or_is_shed(
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
    # Each call had a timeout of 1 s; it may wait two fifths of that.
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


async def test_a_callback_that_raises_does_not_stop_its_turn(native, caplog):
    def handler(call: Call) -> None:
        native.call_soon(lambda: 1 / 0)
        native.call_soon(lambda: call.reply(call.message))

    async with serving(native, handler) as (_, endpoint), calling(endpoint) as channel:
        assert await unary_call(channel)(b"x", timeout=WAIT_S) == b"x"
        assert not native._is_in_turn
    assert "unhandled exception in callback" in caplog.text
