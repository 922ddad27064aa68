import asyncio
import contextlib

import pytest

from skysail_common.errors import Unavailable
from unit.frontend.grpc_query.calls import request_of
from unit.frontend.grpc_query.streams import Streaming
from unit.frontend.parts import turns


async def test_a_stream_without_queries_ends(streaming):
    streaming.stream.end()
    await turns()
    assert streaming.serving.done()
    assert streaming.stream.answers == []


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
    # The server drops the other query, because its client is gone.
    await turns()
    await asyncio.gather(streaming.serving, return_exceptions=True)
    assert streaming.frontend.dispatcher.num_unsettled == 0
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


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
