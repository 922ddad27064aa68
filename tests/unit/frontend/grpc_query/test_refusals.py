import pytest

from skysail_common.errors import ApplicationNotFound, InvalidInput, ModelNotFound
from skysail_common.rpc.messages import duration, tensor_to_proto
from skysail_common.tensors import DataType, Tensor
from skysail_protos.v1 import query_pb2 as pb
from skysail_protos.v1.tensors_pb2 import Tensor as TensorMessage
from unit.frontend.grpc_query.calls import refusal, request_of
from unit.frontend.parts import Frontend, served

LONG = "日" * 40_000


@pytest.mark.parametrize(
    ("request_", "kind", "text"),
    [
        (
            request_of("nope"),
            ApplicationNotFound,
            "no application and no deployed model is called 'nope'",
        ),
        (request_of(version="9"), ModelNotFound, "Request for unknown model: 'm' version 9"),
        (request_of(value=["a", "b", "c"]), InvalidInput, "which cannot become FP64"),
        (request_of(value=[1.0]), InvalidInput, "unexpected shape for input 'x'"),
        (request_of(name="z"), InvalidInput, "unexpected inference input 'z'"),
        (pb.PredictRequest(target="m"), InvalidInput, "expected 1 inputs but got 0"),
        (request_of(timeout=duration(-1)), InvalidInput, "timeout must be greater than 0"),
        (request_of(timeout=duration(0)), InvalidInput, "timeout must be greater than 0"),
        (b"\xff\xff", InvalidInput, "Unable to parse request"),
    ],
)
def test_a_wrong_query_is_refused(request_, kind, text):
    error = refusal(Frontend(served()), request_)
    assert type(error) is kind
    assert text in error.message


@pytest.mark.parametrize(
    "request_",
    [
        request_of(LONG),
        request_of(version=LONG),
        request_of(name=LONG),
        pb.PredictRequest(target="m", inputs=[TensorMessage(name=LONG, datatype=99)]),
        pb.PredictRequest(target="m", inputs=[TensorMessage(name=LONG, datatype=1, content=99)]),
    ],
)
def test_an_error_cuts_long_texts(request_):
    assert len(refusal(Frontend(served()), request_).message) < 500


def test_an_unknown_datatype_is_refused():
    request = request_of()
    request.inputs[0].datatype = 99
    assert "no known datatype" in refusal(Frontend(served()), request).message


@pytest.mark.parametrize("shape", [(-1, -1), (-1, 1), (2**62, 2**62), (1,) * 100])
def test_an_impossible_shape_is_refused_even_if_numbers_are_widened(shape):
    tensor = Tensor("x", DataType.INT8, shape, b"\1")
    request = pb.PredictRequest(target="m", inputs=[tensor_to_proto(tensor)])
    assert type(refusal(Frontend(served()), request)) is InvalidInput
