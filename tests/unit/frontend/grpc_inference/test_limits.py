import pytest

from skysail_common.tensors import Content, DataType, Signature, TensorSpec
from skysail_frontend.core.batch import QueryOutputs
from skysail_frontend.core.validation import MAX_TEXTS
from skysail_protos.inference import grpc_service_pb2 as pb
from unit.frontend.grpc_inference.calls import infer, refusal, simple_request
from unit.frontend.parts import DOUBLES, Frontend, served, texts


@pytest.mark.parametrize(
    ("datatype", "field", "most"),
    [("INT64", "int64_contents", 256 * 1024), ("INT8", "int_contents", 256 * 1024)],
)
def test_too_many_typed_integers_are_refused(datatype, field, most):
    spec = TensorSpec("x", DataType[datatype], (-1, -1))
    frontend = Frontend(
        served(signature=Signature((spec,), DOUBLES.outputs)),
        function=lambda _: QueryOutputs([bytes(24)], [(1, 3)]),
    )
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name="x", datatype=datatype, shape=[1, most])
    getattr(message.contents, field).extend([7] * most)
    assert infer(frontend, request).model_name == "m"
    message.shape[1] = most + 1
    getattr(message.contents, field).append(7)
    assert refusal(frontend, request).message == (
        f"a request has {most + 1} integers in typed contents; send more than {most} in "
        "raw_input_contents"
    )


def test_the_texts_of_all_inputs_count():
    specs = [texts(name, Content.TEXT, -1) for name in "ab"]
    frontend = Frontend(served(signature=Signature(tuple(specs), DOUBLES.outputs)))
    request = pb.ModelInferRequest(model_name="m")
    for spec, count in zip(specs, (MAX_TEXTS, 1), strict=True):
        request.inputs.add(name=spec.name, datatype="BYTES", shape=[1, count])
        request.raw_input_contents.append(bytes(4 * count))
    assert f"got {MAX_TEXTS + 1}; send" in refusal(frontend, request).message


def test_the_integers_of_all_inputs_count(frontend):
    request = simple_request()
    del request.raw_input_contents[:]
    for message, count in zip(request.inputs, (256 * 1024, 1), strict=True):
        message.contents.int_contents.extend([7] * count)
    assert f"has {256 * 1024 + 1} integers" in refusal(frontend, request).message


def test_too_many_texts_in_a_request_are_refused():
    spec = texts("x", Content.TEXT, -1)
    frontend = Frontend(
        served(signature=Signature((spec,), DOUBLES.outputs)),
        function=lambda _: QueryOutputs([bytes(24)], [(1, 3)]),
    )
    for most, is_raw in ((MAX_TEXTS, True), (MAX_TEXTS, False)):
        request = pb.ModelInferRequest(model_name="m")
        message = request.inputs.add(name="x", datatype="BYTES", shape=[1, most])
        if is_raw:
            request.raw_input_contents.append(bytes(4 * most))
        else:
            message.contents.bytes_contents.extend([b""] * most)
        assert infer(frontend, request).model_name == "m"
        message.shape[1] = most + 1
        assert f"at most {MAX_TEXTS} string elements" in refusal(frontend, request).message


@pytest.mark.parametrize("add", ["parameters", "outputs"])
def test_too_many_names_in_a_request_are_refused(frontend, add):
    request = simple_request()
    for number in range(1025):
        if add == "outputs":
            request.outputs.add(name="INPUT0")
        else:
            request.parameters[str(number)].bool_param = True
    assert "at most 1024" in refusal(frontend, request).message
