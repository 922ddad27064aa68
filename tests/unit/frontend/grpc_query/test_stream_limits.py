import asyncio

from skysail_frontend.ingress.stream_session import StreamSession
from skysail_testing.clock import FakeClock
from unit.frontend.grpc_query.calls import request_of
from unit.frontend.grpc_query.streams import FakeStream, Streaming
from unit.frontend.parts import doubled, turns


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


async def test_unread_large_answers_stop_the_reading_of_a_stream(monkeypatch):
    monkeypatch.setattr("skysail_frontend.ingress.stream_session._MAX_BYTES", 100)
    streaming = Streaming(max_stream_queries=1000)
    for index in range(10):
        streaming.stream.ask(request_of(query_id=str(index)))
    await turns(100)
    # Each query holds 24 bytes of input.
    assert streaming.frontend.dispatcher.num_unsettled == 5
