import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.tensors import DataType, Signature, TensorSpec, join_bytes_elements
from skysail_frontend.core.batch import QueryOutputs
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_testing.examples import examples
from unit.frontend.grpc_inference.calls import infer, refusal, request_of, simple, simple_request
from unit.frontend.parts import DOUBLES, Frontend, echoed, served, signature_of, texts


def example_of(datatype: DataType) -> list:
    if datatype is DataType.BYTES:
        return [b"", b"text", b"\xff\0"]
    if datatype is DataType.BOOL:
        return [True, False, True]
    if datatype.dtype.kind == "f":
        return [-1.5, 0.0, 65504.0]
    limits = np.iinfo(datatype.dtype)
    return [limits.min, 1, limits.max]


def raw_of(datatype: DataType, elements: list) -> bytes:
    if datatype is DataType.BYTES:
        return join_bytes_elements(elements)
    if datatype is DataType.BF16:
        return np.array(elements, "<f4").view("<u2")[1::2].tobytes()
    return np.array(elements, datatype.dtype).tobytes()


def one_of(datatype: DataType) -> tuple[Frontend, pb.ModelInferRequest]:
    """Return a model that returns its inputs, and a request without data."""
    version = served(signature=signature_of(TensorSpec("x", datatype, (-1, 3))))
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype=datatype.name, shape=[1, 3])
    return Frontend(version, function=echoed), request


@pytest.mark.parametrize("datatype", DataType)
def test_raw_contents_of_every_datatype_travel_unchanged(datatype):
    frontend, request = one_of(datatype)
    raw = raw_of(datatype, example_of(datatype))
    request.raw_input_contents.append(raw)
    response = infer(frontend, request)
    assert response.outputs[0].datatype == datatype.name
    assert list(response.raw_output_contents) == [raw]


FIELDS = {
    "bool_contents": [DataType.BOOL],
    "int_contents": [DataType.INT8, DataType.INT16, DataType.INT32],
    "int64_contents": [DataType.INT64],
    "uint_contents": [DataType.UINT8, DataType.UINT16, DataType.UINT32],
    "uint64_contents": [DataType.UINT64],
    "fp32_contents": [DataType.FP32],
    "fp64_contents": [DataType.FP64],
    "bytes_contents": [DataType.BYTES],
}

TYPED = [(field, datatype) for field, datatypes in FIELDS.items() for datatype in datatypes]


@pytest.mark.parametrize(("field", "datatype"), TYPED)
def test_typed_contents_of_every_datatype_are_answered_raw(field, datatype):
    frontend, request = one_of(datatype)
    elements = example_of(datatype)
    getattr(request.inputs[0].contents, field).extend(elements)
    response = infer(frontend, request)
    assert list(response.raw_output_contents) == [raw_of(datatype, elements)]
    assert not response.outputs[0].HasField("contents")


@settings(max_examples=examples(50))
@given(st.data(), st.sampled_from(TYPED))
def test_typed_integers_are_exact_or_refused(data, field_and_datatype):
    field, datatype = field_and_datatype
    if datatype.dtype.kind not in "iu":
        return
    wide = np.iinfo({"int_": "i4", "int6": "i8", "uint": "u4"}[field[:4]])
    if field == "uint64_contents":
        wide = np.iinfo("u8")
    elements = data.draw(st.lists(st.integers(wide.min, wide.max), min_size=3, max_size=3))
    limits = np.iinfo(datatype.dtype)
    frontend, request = one_of(datatype)
    getattr(request.inputs[0].contents, field).extend(elements)
    if all(limits.min <= element <= limits.max for element in elements):
        response = infer(frontend, request)
        assert np.frombuffer(response.raw_output_contents[0], datatype.dtype).tolist() == elements
    else:
        assert "does not fit" in refusal(frontend, request).message


def test_typed_integers_that_do_not_fit_are_refused():
    frontend, request = one_of(DataType.INT8)
    request.inputs[0].contents.int_contents.extend([1, 300, 2])
    error = refusal(frontend, request)
    assert isinstance(error, InvalidInput)
    assert error.message.startswith("cannot convert tensor 'x' to INT8: 300 does not fit; ")


@pytest.mark.parametrize("datatype", [DataType.FP16, DataType.BF16])
def test_half_precision_needs_raw_contents(datatype):
    frontend, request = one_of(datatype)
    assert "needs raw_input_contents" in refusal(frontend, request).message
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    assert refusal(frontend, request).message == (
        "unexpected explicit tensor data for input tensor 'x' for model 'm' of type 'FP32', "
        f"expected datatype '{datatype.name}'"
    )


@pytest.mark.parametrize(("field", "datatype"), TYPED)
def test_typed_contents_in_the_wrong_field_are_refused_with_the_text_of_triton(field, datatype):
    frontend = Frontend(simple)
    request = simple_request()
    del request.raw_input_contents[:]
    getattr(request.inputs[0].contents, field).extend(example_of(datatype)[1:])
    request.inputs[1].contents.int_contents.extend(range(16))
    if field == "int_contents":
        expected = (
            "[request id: <id_unknown>] input byte size mismatch for input 'INPUT0' for model "
            "'simple'. Expected 64, got 8"
        )
        request.inputs[0].contents.int_contents[:] = [1, 2]
    else:
        widest = FIELDS[field][-1].name
        expected = (
            "unexpected explicit tensor data for input tensor 'INPUT0' for model 'simple' of type "
            f"'{widest}', expected datatype 'INT32'"
        )
    assert refusal(frontend, request).message == expected


def test_missing_contents_do_not_fill_the_shape():
    frontend, request = one_of(DataType.INT32)
    assert refusal(frontend, request).message == (
        "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'm'. "
        "Expected 12, got 0"
    )


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("FP32", "fp32_contents", [0.0, -0.0, 1.5, float("inf"), 1e-45]),
        ("FP64", "fp64_contents", [0.1, -0.0, 5e-324, float("-inf")]),
        ("BOOL", "bool_contents", [True, False, False, True]),
    ],
)
def test_typed_elements_become_the_same_data_as_raw_ones(datatype, field, values):
    spec = TensorSpec("x", DataType[datatype], (-1, len(values)))
    frontend = Frontend(served(signature=signature_of(spec)), function=echoed)
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name="x", datatype=datatype, shape=[1, len(values)])
    getattr(message.contents, field).extend(values)
    # Fields of another version of the protocol do no harm.
    message.contents.MergeFromString(b"\x7a\x03abc")
    expected = np.array(values, DataType[datatype].dtype).tobytes()
    assert list(infer(frontend, request).raw_output_contents) == [expected]


def test_outputs_whose_size_varies_have_the_shape_of_the_answer():
    output = TensorSpec("y", DataType.BYTES, (-1, -1))
    data = join_bytes_elements([b"a", b"bc"])
    version = served(signature=Signature(DOUBLES.inputs, (output,)))
    frontend = Frontend(version, function=lambda _: QueryOutputs([data], [(1, 2)]))
    response = infer(frontend, request_of())
    assert list(response.outputs[0].shape) == [1, 2]
    assert list(response.raw_output_contents) == [data]


def test_texts_travel_through():
    frontend = Frontend(served(signature=signature_of(texts("x"))), function=echoed)
    request = pb.ModelInferRequest(model_name="m")
    message = request.inputs.add(name="x", datatype="BYTES", shape=[2])
    message.contents.bytes_contents.extend([b"a", "é".encode()])
    response = infer(frontend, request)
    assert list(response.raw_output_contents) == [join_bytes_elements([b"a", "é".encode()])]
