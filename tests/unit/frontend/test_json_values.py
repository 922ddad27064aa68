import base64
import json
import tracemalloc

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.tensors import (
    Content,
    DataType,
    Tensor,
    TensorSpec,
    from_numpy,
    join_bytes_elements,
    split_bytes_elements,
    to_numpy,
)
from skysail_frontend.ingress.http import json_response
from skysail_frontend.ingress.json_values import array_of_json, json_elements, row_of_json
from skysail_testing.examples import examples

NUMBERS = [datatype for datatype in DataType if datatype is not DataType.BYTES]
INTEGERS = [datatype for datatype in NUMBERS if datatype.dtype.kind in "iu"]
FLOATS = [datatype for datatype in NUMBERS if datatype.dtype.kind == "f"]
BINARY, TEXT = Content.BINARY, Content.TEXT


def parsed(value: object) -> object:
    """Return a value as it arrives in an HTTP body."""
    return orjson.loads(orjson.dumps(value))


@pytest.mark.parametrize("datatype", INTEGERS)
@settings(max_examples=examples(25))
@given(data=st.data())
def test_integers_are_exact_or_get_refused(datatype, data):
    limits = np.iinfo(datatype.dtype)
    within = st.integers(int(limits.min), int(limits.max))
    values = data.draw(st.lists(within | st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4))
    if all(limits.min <= value <= limits.max for value in values):
        array = array_of_json("x", parsed(values), datatype)
        assert array.dtype == datatype.dtype
        assert array.tolist() == values
    else:
        with pytest.raises(InvalidInput, match="does not fit"):
            array_of_json("x", parsed(values), datatype)


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("value", [[1, 2.5], [1, 2], [[1, 2], [3, 4.5]], 3, 2.5])
def test_integers_are_accepted_for_any_numbers(datatype, value):
    array = array_of_json("x", value, datatype)
    assert array.dtype == datatype.dtype
    assert array.tolist() == value


def test_null_is_nan_and_infinities_have_names_for_floating_point_types():
    array = array_of_json("x", [[None, "Infinity"], ["-Infinity", 1]], DataType.FP32)
    assert array.dtype == np.float32
    assert np.isnan(array[0, 0])
    assert [array[0, 1], *array[1]] == [np.inf, -np.inf, 1.0]
    assert np.isnan(array_of_json("x", [None], DataType.FP64)).all()
    assert np.isnan(to_numpy(row_of_json(TensorSpec("x", DataType.FP16, (-1,)), None))).all()
    with pytest.raises(InvalidInput, match="dimensions, got null"):
        row_of_json(TensorSpec("x", DataType.FP64, (-1, 3)), None)


@pytest.mark.parametrize("value", [[1e39, 1], [10**39, None], [10**400, 0.5]])
def test_a_number_beyond_a_floating_point_type_is_refused(value):
    with pytest.raises(InvalidInput, match=r"cannot convert tensor 'x' to FP32: "):
        array_of_json("x", value, DataType.FP32)


def test_an_integer_for_a_floating_point_type_is_rounded():
    numbers = array_of_json("x", [16777217, 16777217.0, None], DataType.FP32)
    assert numbers[0] == numbers[1] == 16777216.0


@settings(max_examples=examples(50))
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_doubles_keep_every_bit(values):
    assert array_of_json("x", parsed(values), DataType.FP64).tolist() == values


def test_truth_values_stay_truth_values():
    assert array_of_json("x", [True, False], DataType.BOOL).tolist() == [True, False]


def test_texts_stay_texts():
    array = array_of_json("x", [["a", ""], ["é", "\0"]], DataType.BYTES)
    assert array.shape == (2, 2)
    assert array.tolist() == [["a", ""], ["é", "\0"]]


@pytest.mark.parametrize("datatype", DataType)
def test_an_empty_list_is_an_empty_array(datatype):
    array = array_of_json("x", [[], []], datatype)
    assert array.shape == (2, 0)
    assert array.dtype == datatype.dtype


@pytest.mark.parametrize(
    ("value", "datatype", "text"),
    [
        ([1.5], DataType.INT32, "input 'x' takes integers, got [1.5]"),
        ([1.0], DataType.INT32, "input 'x' takes integers, got [1.0]"),
        ([True, 2], DataType.INT64, "input 'x' takes integers, got [true,2]"),
        ([True, 1.5], DataType.FP64, "input 'x' takes numbers, got [true,1.5]"),
        ([1, 0], DataType.BOOL, "input 'x' takes truth values, got [1,0]"),
        ([True], DataType.FP32, "input 'x' takes numbers, got [true]"),
        (["1"], DataType.FP64, "input 'x' takes numbers, got [\"1\"]"),
        ([1, "1"], DataType.INT64, "input 'x' takes integers, got [1,\"1\"]"),
        (
            [1, None],
            DataType.INT8,
            "input 'x' takes integers, got [1,null]; only floating-point numbers may be null",
        ),
        (
            [None],
            DataType.BOOL,
            "input 'x' takes truth values, got [null]; only floating-point numbers may be null",
        ),
        (["Infinity"], DataType.INT8, "input 'x' takes integers, got [\"Infinity\"]"),
        (["NaN"], DataType.FP64, "input 'x' takes numbers, got [\"NaN\"]"),
        (
            [1, "Infinity", "inf"],
            DataType.FP64,
            'input \'x\' takes numbers, got [1,"Infinity","inf"]',
        ),
        ([{"a": 1}], DataType.FP64, "input 'x' takes numbers, got [{\"a\":1}]"),
        ({}, DataType.FP64, "input 'x' takes numbers, got {}"),
        ([[1], [2, 3]], DataType.FP64, "input 'x' has rows of different lengths"),
        ([1, [2]], DataType.INT8, "input 'x' has rows of different lengths"),
        ([1], DataType.BYTES, "input 'x' takes texts, got 1"),
        (["a", None], DataType.BYTES, "input 'x' takes texts, got null"),
        ([["a"], ["b", "c"]], DataType.BYTES, "input 'x' takes texts, got [\"a\"]"),
        ([{"a": 1}], DataType.BYTES, "input 'x' takes texts, got {\"a\":1}"),
        (
            [300],
            DataType.UINT8,
            "cannot convert tensor 'x' to UINT8: 300 does not fit; give smaller numbers, or use a "
            "wider datatype",
        ),
        ([1e20], DataType.UINT64, "input 'x' takes integers, got [1e+20]"),
    ],
)
def test_other_values_are_refused_and_shown(value, datatype, text):
    with pytest.raises(InvalidInput) as caught:
        array_of_json("x", value, datatype)
    assert caught.value.message == text


def test_an_error_cuts_a_long_value():
    with pytest.raises(InvalidInput) as caught:
        array_of_json("x", ["a" * 10_000], DataType.FP32)
    assert len(caught.value.message) < 120
    assert caught.value.message.endswith("… at [0]")


@pytest.mark.parametrize(
    ("value", "datatype", "text"),
    [
        ([0] * 700 + ["a", "b"], DataType.INT64, 'takes integers, got "a" at [700]'),
        (
            [[0] * 40, [0] * 7 + [True] + [0] * 32],
            DataType.FP64,
            "takes numbers, got true at [1][7]",
        ),
        (
            [0] * 99 + [None],
            DataType.INT8,
            "takes integers, got null at [99]; only floating-point numbers may be null",
        ),
        (["a"] * 99 + [1], DataType.BYTES, "takes texts, got 1 at [99]"),
        (["Infinity", "a", "b" * 99], DataType.FP32, 'takes numbers, got "a" at [1]'),
    ],
)
def test_the_error_about_many_elements_names_the_wrong_one(value, datatype, text):
    with pytest.raises(InvalidInput) as caught:
        array_of_json("x", value, datatype)
    assert caught.value.message == f"input 'x' {text}"


def test_the_error_about_a_long_row_counts_within_the_row():
    spec = TensorSpec("x", DataType.FP64, (-1, -1))
    with pytest.raises(InvalidInput) as caught:
        row_of_json(spec, [1] * 70 + ["a"])
    assert caught.value.message == "input 'x' takes numbers, got \"a\" at [70]"


def test_a_long_text_among_many_short_ones_takes_no_memory_for_all():
    value = ["a" * 20_000] + [""] * 500
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            array_of_json("x", value, DataType.FP32)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


def nested(depth: int) -> object:
    value: object = 1.5
    for _ in range(depth):
        value = [value]
    return value


@settings(max_examples=examples(50))
@given(json_values | st.integers(1, 200).map(nested), st.sampled_from(DataType))
def test_any_json_is_accepted_or_refused_as_invalid(value, datatype):
    value = parsed(value)
    spec = TensorSpec("x", datatype, (-1, -1), TEXT)
    try:
        array = array_of_json("x", value, datatype)
        row_of_json(spec, value)
    except InvalidInput:
        return
    assert array.dtype == datatype.dtype


# Single rows.


def test_a_row_has_a_batch_axis_of_one():
    tensor = row_of_json(TensorSpec("x", DataType.FP32, (-1, -1)), [1, 2, 3])
    assert (tensor.name, tensor.datatype, tensor.shape) == ("x", DataType.FP32, (1, 3))
    assert to_numpy(tensor).tolist() == [[1.0, 2.0, 3.0]]


def test_a_row_may_be_a_single_value():
    tensor = row_of_json(TensorSpec("x", DataType.INT64, (-1,)), 7)
    assert tensor.shape == (1,)
    tensor = row_of_json(TensorSpec("x", DataType.BYTES, (-1,), TEXT), "été")
    assert (tensor.shape, tensor.data) == ((1,), join_bytes_elements(["été".encode()]))


@pytest.mark.parametrize(
    ("shape", "value", "text"),
    [
        ((-1, -1), 7, "input 'x' takes a value with 1 dimensions, got 7"),
        ((-1,), [7], "input 'x' takes a value with 0 dimensions, got [7]"),
        ((-1, 2, 2), [1, 2], "input 'x' takes a value with 2 dimensions, got [1,2]"),
    ],
)
def test_a_row_of_other_dimensions_is_refused(shape, value, text):
    with pytest.raises(InvalidInput) as caught:
        row_of_json(TensorSpec("x", DataType.FP64, shape), value)
    assert caught.value.message == text


@settings(max_examples=examples(25))
@given(st.binary())
def test_bytes_come_as_base64(data):
    text = base64.b64encode(data).decode()
    tensor = row_of_json(TensorSpec("x", DataType.BYTES, (-1,), BINARY), text)
    assert tensor.shape == (1,)
    assert split_bytes_elements(tensor.data, 1) == [data]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "input 'x' is not base64: "),
        ("YW=J", "input 'x' is not base64: "),
        ("é", "input 'x' is not base64: "),
        ("YWJj\n", "input 'x' is not base64: "),
        (7, "input 'x' takes bytes as a base64 text, got 7"),
        (["YWJj"], "input 'x' takes bytes as a base64 text, got [\"YWJj\"]"),
    ],
)
def test_a_text_that_is_not_base64_is_refused(value, text):
    with pytest.raises(InvalidInput) as caught:
        row_of_json(TensorSpec("x", DataType.BYTES, (-1,), BINARY), value)
    assert caught.value.message.startswith(text)


def test_bf16_cannot_be_sent_as_json():
    with pytest.raises(InvalidInput, match="BF16 cannot be sent as JSON"):
        row_of_json(TensorSpec("x", DataType.BF16, (-1, -1)), [1.0])


# Answers.


def written(array: np.ndarray) -> object:
    return orjson.loads(json_response({"value": array}).body)["value"]


@pytest.mark.parametrize("datatype", NUMBERS)
@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3), (0,)])
def test_numbers_of_every_type_can_be_written(datatype, shape):
    values = [0, 1, 1][: int(np.prod(shape))]
    data = np.array(values, datatype.dtype).tobytes()
    if datatype is DataType.BF16:
        data = np.array(values, "<f4").view("<u2")[1::2].tobytes()
    elements = json_elements(Tensor("y", datatype, shape, data))
    assert written(elements) == np.array(values, datatype.dtype).reshape(shape).tolist()
    assert [written(row) for row in elements] == elements.tolist()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_nan_becomes_null_and_an_infinity_its_name(dtype):
    tensor = from_numpy("y", np.array([[np.nan, np.inf, 1.0], [-np.inf, 0.0, 2.0]], dtype))
    rows = [[None, "Infinity", 1.0], ["-Infinity", 0.0, 2.0]]
    assert written(json_elements(tensor)) == rows
    assert [written(row) for row in json_elements(tensor)] == rows
    assert written(json_elements(from_numpy("y", np.array([np.nan, 1.0], dtype)))) == [None, 1.0]


@pytest.mark.parametrize("shape", [(4,), (2, 2), (2, 2, 1)])
def test_texts_can_be_written_in_any_shape(shape):
    texts = np.array(["a", "", "é", '"'], dtype=object).reshape(shape)
    elements = json_elements(from_numpy("y", texts))
    assert written(elements) == texts.tolist()
    assert [written(row) for row in elements] == texts.tolist()


def test_bytes_that_are_not_text_become_base64():
    tensor = from_numpy("y", np.array([b"text", b"\xff\xfe"], dtype=object))
    assert written(json_elements(tensor)) == ["text", base64.b64encode(b"\xff\xfe").decode()]


@pytest.mark.parametrize(
    ("element", "value"),
    [
        ("1", 1),
        ("[1, 2]", [1, 2]),
        ('{"a": null}', {"a": None}),
        ("cat", "cat"),
        ("", ""),
        ("NaN", None),
        ("[NaN, Infinity, -Infinity, 1]", [None, "Infinity", "-Infinity", 1]),
        ("NaN is no number", "NaN is no number"),
        ('"quoted"', "quoted"),
    ],
)
def test_an_element_is_json_or_text(element, value):
    data = join_bytes_elements([element.encode()])
    tensor = Tensor("y", DataType.BYTES, (1,), data, Content.JSON_OR_TEXT)
    assert written(json_elements(tensor)) == [value]


def test_a_text_stays_a_text_even_if_it_is_valid_json():
    tensor = Tensor("y", DataType.BYTES, (1,), join_bytes_elements([b"1"]), TEXT)
    assert written(json_elements(tensor)) == ["1"]


def test_large_integers_in_json_are_not_rounded():
    data = join_bytes_elements([b'{"id": 123456789012345678901234567890}'])
    tensor = Tensor("y", DataType.BYTES, (1,), data, Content.JSON_OR_TEXT)
    body = json_response({"value": json_elements(tensor)}).body
    assert json.loads(body) == {"value": [{"id": 123456789012345678901234567890}]}
