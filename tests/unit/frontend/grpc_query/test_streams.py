from skysail_common.errors import ModelFailed, Status
from skysail_common.rpc.messages import duration
from unit.frontend.grpc_query.calls import request_of, values
from unit.frontend.grpc_query.streams import Streaming
from unit.frontend.parts import application, doubled, failing, turns


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
