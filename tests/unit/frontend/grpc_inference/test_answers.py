import numpy as np
import pytest

from skysail_common.errors import InvalidInput, ModelFailed, Overloaded
from skysail_common.tensors import join_bytes_elements
from skysail_frontend.ingress.grpc_inference import SERVICE
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_testing.fake_calls import FakeCall
from unit.frontend.grpc_inference.calls import (
    ask,
    door_of,
    infer,
    refusal,
    request_of,
    simple,
    simple_request,
)
from unit.frontend.parts import Frontend, application, doubled, echoed, failing, served


def test_a_model_answers_with_its_current_version(frontend):
    response = infer(frontend, request_of(rows=2, id="seven"))
    assert (response.model_name, response.model_version, response.id) == ("m", "2", "seven")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP64", [2, 3])
    assert not output.HasField("contents")
    assert np.frombuffer(response.raw_output_contents[0]).tolist() == [0, 2, 4, 6, 8, 10]
    assert not response.parameters


def test_a_model_answers_with_the_named_version(frontend):
    response = infer(frontend, request_of(model_version="1"))
    assert (response.model_name, response.model_version) == ("m", "1")


def test_an_application_answers_by_its_route():
    frontend = Frontend(served(), applications=[application("app", "m:")], function=doubled)
    response = infer(frontend, request_of("app"))
    assert (response.model_name, response.model_version) == ("m", "1")


def test_a_model_takes_precedence_over_an_application_of_its_name():
    app = application("m", default=[9.0])
    frontend = Frontend(served(), applications=[app], function=doubled)
    assert infer(frontend, request_of("m")).parameters == {}


def test_only_the_wanted_outputs_are_answered():
    frontend = Frontend(simple, function=echoed)
    request = simple_request()
    assert [each.name for each in infer(frontend, request).outputs] == ["INPUT0", "INPUT1"]
    request.outputs.add(name="INPUT1")
    response = infer(frontend, request)
    assert [each.name for each in response.outputs] == ["INPUT1"]
    assert len(response.raw_output_contents) == 1
    # A repeated name asks for its output once.
    request.outputs.add(name="INPUT1")
    assert [each.name for each in infer(frontend, request).outputs] == ["INPUT1"]


@pytest.mark.parametrize(
    "error", [ModelFailed("ValueError: no"), InvalidInput("too long"), Overloaded("busy")]
)
def test_the_error_of_a_model_is_the_error_of_the_call(error):
    frontend = Frontend(served(), function=failing(error))
    assert refusal(frontend, request_of()) is error


def test_parameters_mark_a_default_output():
    app = application("app", "m:", default=[1.0, 2.0, 3.0])
    frontend = Frontend(served(), applications=[app])
    call = ask(frontend, "ModelInfer", request_of("app", rows=2, id="7"))
    frontend.loop.advance(0.2)
    response = pb.ModelInferResponse.FromString(call.answer)
    assert (response.model_name, response.model_version, response.id) == ("m", "1", "7")
    assert response.parameters["skysail_outcome"].string_param == "DEFAULT_DEADLINE"
    assert response.parameters["skysail_explanation"].string_param == (
        "Failed to retrieve a prediction response within the specified latency SLO"
    )
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP64", [2, 3])
    assert np.frombuffer(response.raw_output_contents[0]).tolist() == [1, 2, 3, 1, 2, 3]


def test_a_late_call_gets_the_default_output_of_an_application_but_not_of_a_model():
    app = application("app", "m:", default=[1.0, 2.0, 3.0])
    hidden = application("m", "m:", default=[9.0])
    frontend = Frontend(served(), applications=[app, hidden])
    call = FakeCall("", request_of("app", id="seven").SerializeToString())
    late = door_of(frontend).late[f"/{SERVICE}/ModelInfer"]
    assert late(call)
    response = pb.ModelInferResponse.FromString(call.answer)
    assert response.id == "seven"
    assert response.parameters["skysail_outcome"].string_param == "DEFAULT_OVERLOADED"
    assert np.frombuffer(response.raw_output_contents[0]).tolist() == [1.0, 2.0, 3.0]
    other = FakeCall("", request_of("m", id="eight").SerializeToString())
    assert not late(other)
    assert not other.is_answered
    assert frontend.version().batcher.rate.num_rows == 2


def test_a_default_output_without_routes_names_no_model():
    frontend = Frontend(applications=[application("app", default="none")])
    response = infer(frontend, request_of("app"))
    assert (response.model_name, response.model_version) == ("", "")
    assert response.parameters["skysail_outcome"].string_param == "DEFAULT_NO_REPLICA"
    assert (response.outputs[0].name, response.outputs[0].datatype) == ("output", "BYTES")
    assert list(response.raw_output_contents) == [join_bytes_elements([b"none"])]


def test_a_default_output_is_cut_to_the_wanted_outputs():
    app = application("app", "m:", default={"y": [0.0] * 3, "z": 1})
    frontend = Frontend(served(num_replicas=0), applications=[app])
    request = request_of("app")
    request.outputs.add(name="y")
    assert [each.name for each in infer(frontend, request).outputs] == ["y"]
