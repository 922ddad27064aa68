import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.rpc.messages import (
    datatype_from_proto,
    duration,
    input_type_from_proto,
    seconds,
    signature_from_proto,
    signature_to_proto,
    tensor_from_proto,
    tensor_to_proto,
)
from skysail_common.tensors import Content, DataType, InputType, Signature, Tensor, TensorSpec
from skysail_protos.v1 import tensors_pb2
from skysail_testing.examples import examples

YEAR_S = 365 * 86_400
names = st.text(max_size=10)
datatypes = st.sampled_from(DataType)
contents = st.sampled_from(Content)
tensors = st.builds(
    Tensor,
    names,
    datatypes,
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(tuple),
    st.binary(),
    contents,
)
spec_shapes = st.lists(st.just(-1) | st.integers(1, 2**63 - 1), max_size=3).map(
    lambda sizes: (-1, *sizes)
)
specs = st.builds(TensorSpec, names, datatypes, spec_shapes, contents)
spec_lists = st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec.name).map(tuple)


@settings(max_examples=examples(30))
@given(tensors)
def test_a_tensor_comes_back_from_its_message(tensor):
    wire = tensor_to_proto(tensor).SerializeToString()
    assert tensor_from_proto(tensors_pb2.Tensor.FromString(wire)) == tensor


@settings(max_examples=examples(30))
@given(st.builds(Signature, spec_lists, spec_lists))
def test_a_signature_comes_back_from_its_message(signature):
    wire = signature_to_proto(signature).SerializeToString()
    assert signature_from_proto(tensors_pb2.Signature.FromString(wire)) == signature


@pytest.mark.parametrize("number", [0, 15, -1])
def test_an_unknown_datatype_is_refused_with_the_name_of_the_tensor(number):
    message = f"tensor 'x' has no known datatype ({number})"
    with pytest.raises(InvalidInput) as caught:
        datatype_from_proto(number, "x")
    assert caught.value.message == message
    with pytest.raises(InvalidInput) as caught:
        tensor_from_proto(tensors_pb2.Tensor(name="x", datatype=number))
    assert caught.value.message == message


def test_an_unknown_content_is_refused_with_the_name_of_the_tensor():
    with pytest.raises(InvalidInput, match=r"tensor 'x' has no known content \(9\)"):
        tensor_from_proto(tensors_pb2.Tensor(name="x", datatype=1, content=9))


@pytest.mark.parametrize("number", [0, 7, -1])
def test_an_unknown_input_type_is_refused_with_the_known_ones(number):
    with pytest.raises(InvalidInput, match="input_type must be one of tensors, integers, floats"):
        input_type_from_proto(number)


@pytest.mark.parametrize("input_type", InputType, ids=lambda each: each.name)
def test_an_input_type_is_known_by_its_number(input_type):
    assert input_type_from_proto(input_type.value) is input_type


def spec(**changes: object) -> tensors_pb2.TensorSpec:
    return tensors_pb2.TensorSpec(
        **{"name": "x", "datatype": DataType.FP32, "shape": [-1], **changes}
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([spec(), spec()], [spec()], "two inputs of the signature have the same name"),
        ([spec(shape=[])], [spec()], "must have a batch axis"),
        ([spec(shape=[-1, 0])], [spec()], "has an impossible shape"),
        ([spec(datatype=0)], [spec()], "has no known datatype"),
        ([spec()], [spec(content=9)], "has no known content"),
    ],
)
def test_an_inconsistent_signature_is_refused(inputs, outputs, message):
    with pytest.raises(InvalidInput, match=message):
        signature_from_proto(tensors_pb2.Signature(inputs=inputs, outputs=outputs))


@settings(max_examples=examples(30))
@given(st.floats(1e-9, YEAR_S))
def test_a_duration_survives_to_the_nanosecond(value):
    assert seconds("slo", duration(value)) == pytest.approx(value, rel=1e-15, abs=1e-9)


def test_a_duration_is_seconds_and_nanoseconds():
    assert duration(1.5) == Duration(seconds=1, nanos=500_000_000)
    assert duration(0) == Duration()
    assert duration(-0.25) == Duration(nanos=-250_000_000)


@pytest.mark.parametrize(
    "value", [float("inf"), float("-inf"), float("nan"), YEAR_S + 1, -YEAR_S - 1, 1e300]
)
def test_an_invalid_or_too_long_duration_is_refused(value):
    with pytest.raises(InvalidInput, match="a duration is at most a year"):
        duration(value)


@pytest.mark.parametrize(
    "message",
    [
        Duration(),
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=YEAR_S, nanos=1_000_000),
        Duration(seconds=2**63 - 1),
    ],
    ids=str,
)
def test_the_error_about_a_bad_duration_names_the_field(message):
    with pytest.raises(InvalidInput, match="slo must be greater than 0 and at most a year, got"):
        seconds("slo", message)
