import pytest

from skysail_common.errors import InvalidInput, ModelNotFound
from skysail_protos.inference import grpc_service_pb2 as pb
from unit.frontend.grpc_inference.calls import refusal, simple_request


def _both(request):
    request.inputs[0].contents.int_contents.extend(range(16))


def _too_few(request):
    del request.raw_input_contents[1]


def _too_many(request):
    request.raw_input_contents.append(b"")


def _wrong_type(request):
    request.inputs[0].datatype = "FP32"


def _unknown_type(request):
    request.inputs[0].datatype = "int32"


def _unknown_output(request):
    request.outputs.add(name="NOPE")


def _unknown_model(request):
    request.model_name = "nope"


def _unknown_version(request):
    request.model_version = "9"


def _renamed(request):
    request.inputs[1].name = "BOGUS"


def _twice(request):
    request.inputs[1].name = "INPUT0"


def _short(request):
    request.raw_input_contents[0] = request.raw_input_contents[0][:60]


def _without_batch(request):
    request.inputs[0].shape[:] = [16]


@pytest.mark.parametrize(
    ("spoil", "kind", "beginning"),
    [
        (
            _both,
            InvalidInput,
            "contents field must not be specified when using raw_input_contents for 'INPUT0' for "
            "model 'simple'",
        ),
        (
            _too_few,
            InvalidInput,
            "unable to find data for input tensor 'INPUT1' for model 'simple' in request.",
        ),
        (
            _too_many,
            InvalidInput,
            "expected 2 raw_input_contents for model 'simple', got 3",
        ),
        (
            _wrong_type,
            InvalidInput,
            "[request id: 7] inference input 'INPUT0' data-type is 'FP32', but model 'simple' "
            "expects 'INT32'",
        ),
        (_unknown_type, InvalidInput, "'int32' is not a datatype; known are BOOL, "),
        (
            _unknown_output,
            InvalidInput,
            "unexpected inference output 'NOPE' for model 'simple'",
        ),
        (_unknown_model, ModelNotFound, "Request for unknown model: 'nope' is not found"),
        (
            _unknown_version,
            ModelNotFound,
            "Request for unknown model: 'simple' version 9 is not found",
        ),
        (
            _renamed,
            InvalidInput,
            "unexpected inference input 'BOGUS' for model 'simple'",
        ),
        (
            _twice,
            InvalidInput,
            "[request id: 7] input 'INPUT0' already exists in request",
        ),
        (
            _short,
            InvalidInput,
            "[request id: 7] input byte size mismatch for input 'INPUT0' for model 'simple'. "
            "Expected 64, got 60",
        ),
        (
            _without_batch,
            InvalidInput,
            "[request id: 7] unexpected shape for input 'INPUT0' for model 'simple'. Expected "
            "[-1,16], got [16]",
        ),
    ],
)
def test_a_wrong_request_is_refused(frontend, spoil, kind, beginning):
    request = simple_request()
    request.id = "7"
    spoil(request)
    error = refusal(frontend, request)
    assert type(error) is kind
    assert error.message.startswith(beginning)


LONG = "日" * 40_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda request: setattr(request, "model_name", LONG),
        lambda request: setattr(request, "model_version", LONG),
        lambda request: setattr(request.inputs[0], "name", LONG),
        lambda request: setattr(request.inputs[0], "datatype", LONG),
        lambda request: request.outputs.add(name=LONG),
        lambda request: (
            request.inputs[0].parameters["classification"].SetInParent()
            or setattr(request.inputs[0], "name", LONG)
        ),
        lambda request: setattr(request, "id", LONG) or _short(request),
        lambda request: setattr(request.inputs[1], "name", LONG) or _too_few(request),
        lambda request: setattr(request.inputs[0], "name", LONG) or _both(request),
    ],
)
def test_an_error_cuts_long_texts(frontend, spoil):
    request = simple_request()
    spoil(request)
    assert len(refusal(frontend, request).message) < 500


@pytest.mark.parametrize("field", ["int_contents", "fp32_contents", "bytes_contents"])
def test_an_error_of_typed_contents_cuts_long_texts(frontend, field):
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name=LONG, datatype="FP64", shape=[1, 3])
    getattr(message.contents, field).append(b"" if field == "bytes_contents" else 1)
    error = refusal(frontend, request)
    assert "unexpected explicit tensor data" in error.message
    assert len(error.message) < 500
