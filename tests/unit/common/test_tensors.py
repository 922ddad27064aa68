import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skysail_common.errors import InvalidInput
from skysail_common.tensors import (
    CLIPPER_SPECS,
    Content,
    DataType,
    InputType,
    Signature,
    Tensor,
    TensorSpec,
    from_numpy,
    join_bytes_elements,
    split_bytes_elements,
    to_numpy,
)
from skysail_testing.examples import examples

NUMBERS = [each for each in DataType if each not in (DataType.BYTES, DataType.BF16)]
shapes = array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3)
few = settings(max_examples=examples(15))
many = settings(max_examples=examples(50))


@pytest.mark.parametrize("datatype", NUMBERS, ids=lambda each: each.name)
@few
@given(st.data())
def test_numbers_come_back_bit_for_bit(datatype, data):
    array = data.draw(arrays(datatype.dtype, shapes))
    tensor = from_numpy("x", array)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", datatype, array.shape)
    assert len(tensor.data) == array.size * datatype.element_bytes
    back = to_numpy(tensor)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("datatype", NUMBERS, ids=lambda each: each.name)
def test_a_datatype_and_its_numpy_type_lead_to_each_other(datatype):
    assert DataType.of(datatype.dtype) is datatype
    assert DataType.named(datatype.name) is datatype
    assert datatype.element_bytes == datatype.dtype.itemsize


@many
@given(st.lists(st.binary()))
def test_byte_strings_come_back(elements):
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    tensor = from_numpy("x", array)
    assert tensor.datatype is DataType.BYTES
    assert tensor.content is Content.BINARY
    assert to_numpy(tensor).tolist() == elements


@few
@given(arrays(object, shapes, elements=st.text(max_size=5)))
def test_texts_come_back_in_their_shape(array):
    tensor = from_numpy("x", array)
    assert tensor.content is (Content.TEXT if array.size else Content.BINARY)
    back = to_numpy(tensor)
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


@many
@given(st.lists(st.integers(0, 2**16 - 1)))
def test_bf16_is_the_upper_half_of_fp32(words):
    data = np.array(words, "<u2").tobytes()
    floats = to_numpy(Tensor("x", DataType.BF16, (len(words),), data))
    assert floats.dtype == np.dtype("<f4")
    assert floats.view("<u4").tolist() == [word << 16 for word in words]


def test_bf16_numbers_have_their_values():
    data = bytes.fromhex("803f 20c1 0000 807f")
    tensor = Tensor("x", DataType.BF16, (2, 2), data)
    assert to_numpy(tensor).tolist() == [[1.0, -10.0], [0.0, float("inf")]]


def test_elements_are_row_major_and_little_endian():
    array = np.array([[1, 2], [3, 4]], ">i2").T
    tensor = from_numpy("x", array)
    assert tensor.datatype is DataType.INT16
    assert tensor.data == bytes.fromhex("0100 0300 0200 0400")


def test_an_element_of_bytes_is_its_length_and_then_its_bytes():
    assert join_bytes_elements([b"", b"ab"]) == bytes.fromhex("00000000 02000000 6162")
    assert join_bytes_elements([]) == b""
    assert join_bytes_elements([b"a" * 200])[:4] == bytes.fromhex("c8000000")


@pytest.mark.parametrize(
    "array",
    [np.array(["a", "bc"]), np.array([b"a", b"bc"]), np.array(["a", "bc"], dtype=object)],
    ids=["U", "S", "O"],
)
def test_every_numpy_type_of_texts_is_bytes(array):
    tensor = from_numpy("x", array)
    assert tensor.datatype is DataType.BYTES
    assert tensor.data == join_bytes_elements([b"a", b"bc"])


def test_the_content_of_bytes_may_be_given():
    array = np.array(["1"], dtype=object)
    assert from_numpy("x", array, Content.JSON_OR_TEXT).content is Content.JSON_OR_TEXT
    assert to_numpy(from_numpy("x", array, Content.BINARY)).tolist() == [b"1"]


@pytest.mark.parametrize("dtype", ["c8", np.longdouble, [("a", "i4")]], ids=lambda each: str(each))
def test_a_numpy_type_without_a_datatype_is_refused(dtype):
    with pytest.raises(InvalidInput, match="has no datatype in the protocol"):
        from_numpy("x", np.zeros(1, dtype=dtype))


@pytest.mark.parametrize("value", [None, 1, 1.5, [1], object()], ids=lambda each: str(type(each)))
def test_the_error_about_an_object_names_its_type(value):
    array = np.empty(2, dtype=object)
    array[0], array[1] = "text", value
    with pytest.raises(InvalidInput, match=f"'x' has an element of type {type(value).__name__};"):
        from_numpy("x", array)


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InvalidInput, match="tensor 'x' has a text that is not UTF-8"):
        from_numpy("x", np.array(["\ud83d"], dtype=object))


def test_text_that_is_not_utf_8_is_refused():
    data = join_bytes_elements([b"\xff"])
    for content in (Content.TEXT, Content.JSON_OR_TEXT):
        with pytest.raises(InvalidInput, match="tensor 'x' is not UTF-8 text"):
            to_numpy(Tensor("x", DataType.BYTES, (1,), data, content))
    assert to_numpy(Tensor("x", DataType.BYTES, (1,), data)).tolist() == [b"\xff"]


@many
@given(st.lists(st.binary(max_size=5), min_size=1), st.data())
def test_truncated_bytes_are_refused_wherever_they_end(elements, data):
    joined = join_bytes_elements(elements)
    end = data.draw(st.integers(0, len(joined) - 1))
    with pytest.raises(InvalidInput):
        split_bytes_elements(joined[:end], len(elements))


@many
@given(st.binary(), st.integers(-2, 5))
def test_any_bytes_are_parsed_exactly_or_refused(data, count):
    try:
        elements = split_bytes_elements(data, count)
    except InvalidInput:
        return
    assert len(elements) == count
    assert join_bytes_elements(elements) == data


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (b"\x01\x00", 1, "incomplete string length: expecting 4 bytes but only 2 available"),
        (
            b"\x05\x00\x00\x00ab",
            1,
            "incomplete string data: expecting string of length 5 but only 2 bytes available",
        ),
        (
            b"\xff\xff\xff\xff",
            1,
            "incomplete string data: expecting string of length 4294967295 but only 0 bytes "
            "available",
        ),
        (b"", 2, "expected 2 string elements, got 0"),
        (b"\x00" * 4, 2, "expected 2 string elements, got 1"),
        (b"\x00" * 400, 2, "expected 2 string elements, got more"),
        (b"\x00" * 4, 0, "expected 0 string elements, got more"),
    ],
)
def test_the_error_about_a_wrong_length_is_precise(data, count, message):
    with pytest.raises(InvalidInput) as caught:
        split_bytes_elements(data, count)
    assert caught.value.message == message


@pytest.mark.parametrize("datatype", [*NUMBERS, DataType.BF16], ids=lambda each: each.name)
def test_data_that_do_not_fill_the_shape_are_refused(datatype):
    size = 3 * datatype.element_bytes
    for num_bytes in (0, size - 1, size + 1):
        with pytest.raises(InvalidInput) as caught:
            to_numpy(Tensor("x", datatype, (3, 1), bytes(num_bytes)))
        assert caught.value.message == (
            f"tensor 'x' of shape [3, 1] needs {size} bytes, got {num_bytes}"
        )


odd_sizes = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, 2**40, 2**62, 2**63, 2**70]))


@many
@given(
    st.sampled_from(DataType),
    st.lists(odd_sizes, max_size=4).map(tuple),
    st.one_of(st.binary(max_size=16), st.just(b"\0" * 4)),
)
def test_any_shape_with_any_data_is_refused_or_filled(datatype, shape, data):
    try:
        array = to_numpy(Tensor("x", datatype, shape, data))
    except InvalidInput:
        return
    assert array.shape == shape


@pytest.mark.parametrize("shape", [(-1, -1), (-2, -2), (0, -1), (2**70, 0), (2**40, 2**40, 0)])
def test_an_impossible_shape_that_the_data_fill_is_refused(shape):
    count = max(int(np.prod(shape, dtype=object)), 0)
    for datatype, data in ((DataType.UINT8, bytes(count)), (DataType.BYTES, bytes(4 * count))):
        with pytest.raises(InvalidInput):
            to_numpy(Tensor("x", datatype, shape, data))


@pytest.mark.parametrize("name", ["", "fp32", "FLOAT", "FP32 ", "UNSPECIFIED"])
def test_an_unknown_name_of_a_datatype_is_refused_with_the_known_ones(name):
    with pytest.raises(InvalidInput, match="is not a datatype; known are BOOL, UINT8"):
        DataType.named(name)


def test_an_error_cuts_a_long_name():
    for named in (DataType.named, InputType.named):
        with pytest.raises(InvalidInput) as caught:
            named("x" * 10_000)
        assert len(caught.value.message) < 300


@pytest.mark.parametrize("input_type", InputType, ids=lambda each: each.name)
def test_an_input_type_has_a_lower_case_name(input_type):
    assert InputType.named(input_type.name.lower()) is input_type
    with pytest.raises(InvalidInput, match="is not an input type; known are tensors, integers"):
        InputType.named(input_type.name)


@pytest.mark.parametrize(
    ("datatype", "shape", "row_bytes", "variable_axes"),
    [
        (DataType.FP32, (-1,), 4, ()),
        (DataType.FP64, (-1, 64), 512, ()),
        (DataType.BF16, (-1, 3), 6, ()),
        (DataType.BOOL, (-1, 2, 3), 6, ()),
        (DataType.FP32, (-1, -1), None, (1,)),
        (DataType.FP32, (-1, 3, -1, -1), None, (2, 3)),
        (DataType.BYTES, (-1,), None, ()),
        (DataType.BYTES, (-1, 3), None, ()),
        (DataType.BYTES, (-1, -1), None, (1,)),
    ],
)
def test_a_specification_knows_the_size_of_its_rows(datatype, shape, row_bytes, variable_axes):
    spec = TensorSpec("x", datatype, shape)
    assert spec.row_bytes == row_bytes
    assert spec.variable_axes == variable_axes


@pytest.mark.parametrize("shape", [(), (1,), (3, -1), (0,), (-2, 3)])
def test_a_specification_without_a_batch_axis_is_refused(shape):
    with pytest.raises(InvalidInput, match="'x' must have a batch axis of size -1 first"):
        TensorSpec("x", DataType.FP32, shape)


@pytest.mark.parametrize("shape", [(-1, 0), (-1, -2), (-1, 3, 0)])
def test_a_specification_of_an_impossible_shape_is_refused(shape):
    with pytest.raises(InvalidInput, match="'x' has an impossible shape"):
        TensorSpec("x", DataType.FP32, shape)


@pytest.mark.parametrize(
    ("datatype", "shape", "content", "expected"),
    [
        (DataType.INT32, (-1, 3), Content.BINARY, InputType.INTEGERS),
        (DataType.FP32, (-1, -1), Content.BINARY, InputType.FLOATS),
        (DataType.FP64, (-1, 64), Content.BINARY, InputType.DOUBLES),
        (DataType.BYTES, (-1,), Content.BINARY, InputType.BYTES),
        (DataType.BYTES, (-1,), Content.TEXT, InputType.STRINGS),
        (DataType.BYTES, (-1,), Content.JSON_OR_TEXT, InputType.STRINGS),
        (DataType.BYTES, (-1, 2), Content.TEXT, InputType.TENSORS),
        (DataType.INT64, (-1, 3), Content.BINARY, InputType.INTEGERS),
        (DataType.FP64, (-1,), Content.BINARY, InputType.TENSORS),
        (DataType.FP64, (-1, 8, 8), Content.BINARY, InputType.TENSORS),
    ],
)
def test_the_input_type_describes_a_sole_input(datatype, shape, content, expected):
    spec = TensorSpec("x", datatype, shape, content)
    output = TensorSpec("y", DataType.FP32, (-1,))
    assert Signature((spec,), (output,)).input_type is expected
    other = TensorSpec("z", DataType.FP32, (-1,))
    assert Signature((spec, other), (output,)).input_type is InputType.TENSORS


@pytest.mark.parametrize("input_type", CLIPPER_SPECS, ids=lambda each: each.name)
def test_a_function_that_takes_a_list_takes_that_input_type(input_type):
    spec = CLIPPER_SPECS[input_type]
    assert Signature((spec,), (spec,)).input_type is input_type


def test_a_signature_is_known_once_it_has_inputs_and_outputs():
    x = TensorSpec("x", DataType.FP32, (-1,))
    assert Signature((x,), (x,)).is_known
    for unknown in (Signature((x,), ()), Signature((), (x,)), Signature((), ())):
        assert not unknown.is_known
    assert Signature((), ()).input_type is InputType.TENSORS


def test_a_signature_needs_inputs_and_outputs_of_different_names():
    x = TensorSpec("x", DataType.FP32, (-1,))
    with pytest.raises(InvalidInput, match="two inputs of the signature have the same name"):
        Signature((x, x), (x,))
    with pytest.raises(InvalidInput, match="two outputs of the signature have the same name"):
        Signature((x,), (x, x))
    assert Signature((x,), (x,)).inputs == Signature((x,), (x,)).outputs
