import numpy as np

from skysail_protos.inference import grpc_service_pb2 as pb
from unit.frontend.grpc_inference.calls import (
    OneStream,
    door_of,
    request_of,
    simple,
    simple_request,
)
from unit.frontend.parts import Frontend, TurningLoop, doubled, echoed, served


async def stream_infer(*messages: bytes) -> list[pb.ModelStreamInferResponse]:
    frontend = Frontend(served("m:1"), function=doubled, loop=TurningLoop)
    stream = OneStream(*messages)
    await door_of(frontend).streams[stream.method](stream)
    assert frontend.dispatcher.num_unsettled == 0
    return stream.answers


async def test_a_stream_answers_each_query_and_says_that_it_is_final():
    requests = [request_of(id=each).SerializeToString() for each in ("a", "b", "a", "")]
    answers = await stream_infer(*requests)
    assert sorted(each.infer_response.id for each in answers) == ["", "a", "a", "b"]
    for each in answers:
        assert each.error_message == ""
        assert each.infer_response.parameters["triton_final_response"].bool_param
        assert np.frombuffer(each.infer_response.raw_output_contents[0]).tolist() == [0, 2, 4]


async def test_the_inputs_of_a_stream_keep_their_names_in_any_order():
    frontend = Frontend(simple, function=echoed, loop=TurningLoop)
    request = simple_request()
    request.inputs[0].name, request.inputs[1].name = "INPUT1", "INPUT0"
    messages = []
    for number in range(3):
        request.raw_input_contents[0] = bytes([number + 1] * 64)
        messages.append(request.SerializeToString())
    stream = OneStream(*messages)
    await door_of(frontend).streams[stream.method](stream)
    firsts = [each.infer_response.raw_output_contents[1] for each in stream.answers]
    assert firsts == [bytes([number + 1] * 64) for number in range(3)]


async def test_a_query_that_fails_leaves_the_stream_open():
    answers = await stream_infer(
        request_of("nope", id="a").SerializeToString(),
        b"\xff",
        request_of(id="b").SerializeToString(),
    )
    by_id = {each.infer_response.id: each.error_message for each in answers}
    assert by_id["a"] == "Request for unknown model: 'nope' is not found"
    assert by_id[""] == "Unable to parse request: it is not a ModelInferRequest"
    assert by_id["b"] == ""
