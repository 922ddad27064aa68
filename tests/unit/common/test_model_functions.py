import json
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import ModelFailed
from skysail_common.model_functions import (
    LIST_OUTPUT,
    as_array,
    call_function,
    checked_outputs,
    named_outputs,
)
from skysail_common.tensors import Content, DataType, TensorSpec
from skysail_testing.examples import examples


def echo(*positional, **named):
    return positional, named


def test_a_function_gets_its_inputs_in_its_calling_form():
    x, y = np.ones(2), np.zeros(2)
    assert call_function(echo, "array", {"x": x}) == ((x,), {})
    assert call_function(echo, "keywords", {"x": x, "y": y}) == ((), {"x": x, "y": y})
    assert call_function(echo, "mapping", {"x": x, "y": y}) == (({"x": x, "y": y},), {})
    assert call_function(echo, "list", {"input": [1, 2]}) == (([1, 2],), {})


def test_an_exception_of_the_function_propagates():
    def fail(x):
        raise ZeroDivisionError("of the user")

    with pytest.raises(ZeroDivisionError, match="of the user"):
        call_function(fail, "array", {"x": np.ones(1)})


def test_a_function_may_change_the_mapping_that_it_gets():
    inputs = {"x": np.ones(1)}
    call_function(lambda mapping: mapping.clear(), "mapping", inputs)
    assert list(inputs) == ["x"]


def shown(outputs) -> dict[str, list]:
    return {name: array.tolist() for name, array in outputs.items()}


@pytest.mark.parametrize("calling", ["array", "keywords", "mapping"])
def test_a_single_array_is_the_output_named_output(calling):
    assert shown(named_outputs(np.array([1.5, 2]), calling)) == {"output": [1.5, 2]}
    assert shown(named_outputs([[1, 2], [3, 4]], calling)) == {"output": [[1, 2], [3, 4]]}
    assert shown(named_outputs(["a", "b"], calling)) == {"output": ["a", "b"]}


def test_a_tuple_has_numbered_outputs():
    assert shown(named_outputs(([1, 2], ["a", "b"]), "array")) == {
        "output0": [1, 2],
        "output1": ["a", "b"],
    }
    pair = namedtuple("pair", "label score")
    assert list(named_outputs(pair([1], [0.5]), "array")) == ["output0", "output1"]


def test_a_dictionary_names_its_outputs():
    outputs = named_outputs({"label": [3], 7: np.array([0.5])}, "mapping")
    assert shown(outputs) == {"label": [3], "7": [0.5]}


@pytest.mark.parametrize(
    ("result", "elements"),
    [
        (["a", "7", "null"], ["a", '"7"', '"null"']),
        ([1, 2.5, True, None], ["1", "2.5", "true", "null"]),
        ([np.int64(1), np.float32(0.5), np.bool_(True)], ["1", "0.5", "true"]),
        ([[1, 2], {"a": np.array([1, 2])}], ["[1, 2]", '{"a": [1, 2]}']),
        ((1, 2), ["1", "2"]),
        (np.array([1, 2]), ["1", "2"]),
        (np.array([[1, 2], [3, 4]]), ["[1, 2]", "[3, 4]"]),
        (np.array(["a", "b"]), ["a", "b"]),
        ([], []),
    ],
)
def test_a_list_keeps_texts_and_writes_other_values_as_json(result, elements):
    output = named_outputs(result, "list")["output"]
    assert output.tolist() == elements
    assert output.shape == (len(elements),)
    assert checked_outputs({"output": output}, [LIST_OUTPUT], len(elements))[0] is output


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=examples(20))
@given(st.lists(json_values, max_size=4))
def test_json_values_of_a_list_are_read_back_from_their_texts(values):
    elements = named_outputs(values, "list")["output"].tolist()
    assert [json.loads(element) for element in elements] == values


@pytest.mark.parametrize(
    "result",
    ["abc", b"abc", 5, None, {"a": 1}, np.array(5.0), iter([1]), {1, 2}],
    ids=lambda each: type(each).__name__,
)
def test_the_error_about_a_result_that_is_not_a_list_names_its_type(result):
    with pytest.raises(ModelFailed) as caught:
        named_outputs(result, "list")
    assert caught.value.message == (
        f"the function returned {'None' if result is None else f'a {type(result).__name__}'}; it "
        "must return a list with an element "
        "for each input"
    )


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1, 2], "int64"),
        ([1.0, 2], "float64"),
        ([True], "bool"),
        (np.ones(2, "f2"), "float16"),
        (np.ones(2, ">f4"), ">f4"),
        (["a"], "object"),
        ([b"a"], "object"),
        (np.array(["a"]), "object"),
        ([["a", "b"], ["c", "d"]], "object"),
        (range(3), "int64"),
        (5, "int64"),
    ],
)
def test_numbers_and_texts_become_arrays(value, dtype):
    array = as_array("x", value)
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == (list(value) if isinstance(value, range) else np.array(value).tolist())


@settings(max_examples=examples(50))
@given(st.lists(st.binary(), min_size=1) | st.lists(st.text(), min_size=1))
def test_texts_keep_trailing_zero_characters(values):
    assert as_array("x", values).tolist() == values
    assert as_array("x", [values, values]).tolist() == [values, values]


class FrameworkTensor:
    """A stand-in for tensors of torch."""

    def __init__(self, place: str = "gpu") -> None:
        self.place = place

    def detach(self) -> "FrameworkTensor":
        return self

    def cpu(self) -> "FrameworkTensor":
        return FrameworkTensor("cpu")

    def __array__(self, dtype=None, copy=None):
        if self.place != "cpu":
            raise TypeError("can't convert device tensor to numpy")
        return np.ones(2)


class NoArray:
    def __array__(self, dtype=None, copy=None):
        raise TypeError("unsupported ScalarType BFloat16")


def test_a_tensor_of_a_framework_is_copied_to_the_cpu():
    assert as_array("x", FrameworkTensor()).tolist() == [1, 1]


def test_the_error_about_a_failed_conversion_has_its_cause():
    with pytest.raises(ModelFailed, match="'x' is not an array: unsupported ScalarType BFloat16"):
        as_array("x", NoArray())


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ModelFailed, match="'x' is not an array: setting an array element"):
        as_array("x", [[1, 2], [3]])


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "NoneType"),
        ([None], "NoneType"),
        ([1, None], "NoneType"),
        (["a", None], "NoneType"),
        (["a", 1], "int"),
        ([{}], "dict"),
        ({"a": 1}, "dict"),
        (object(), "object"),
    ],
)
def test_the_error_about_an_odd_element_names_its_type(value, kind):
    with pytest.raises(ModelFailed, match=f"^'x' holds a value of type {kind};"):
        as_array("x", value)


@pytest.mark.parametrize("value", [2**70, [1, 2**70], [-(2**63) - 1, 1]])
def test_the_error_shows_an_integer_that_is_too_large(value):
    with pytest.raises(ModelFailed, match=r"'x' holds -?\d{19,}, which is not a 64-bit integer"):
        as_array("x", value)


@pytest.mark.parametrize("dtype", ["c16", np.longdouble], ids=str)
def test_a_numpy_type_without_a_datatype_is_named(dtype):
    with pytest.raises(ModelFailed, match=r"'x' has numpy type .*, which no datatype holds"):
        as_array("x", np.zeros(1, dtype))


LABEL = TensorSpec("label", DataType.INT32, (-1,))
SCORES = TensorSpec("scores", DataType.FP32, (-1, 3))
TEXT = TensorSpec("text", DataType.BYTES, (-1,), Content.TEXT)


def test_outputs_come_in_the_order_of_the_signature_with_its_types():
    outputs = {
        "text": as_array("text", ["a", "b"]),
        "unasked": np.zeros(9),
        "scores": np.ones((2, 3), "f8"),
        "label": np.array([1, 2], "i8"),
    }
    label, scores, text = checked_outputs(outputs, [LABEL, SCORES, TEXT], 2)
    assert (label.dtype, label.tolist()) == (np.dtype("i4"), [1, 2])
    assert (scores.dtype, scores.shape) == (np.dtype("f4"), (2, 3))
    assert text.tolist() == ["a", "b"]


def test_an_output_of_the_right_type_is_not_copied():
    array = np.ones((2, 3), "f4")
    assert checked_outputs({"scores": array}, [SCORES], 2)[0] is array


def test_a_dimension_that_varies_may_have_any_size():
    spec = TensorSpec("output", DataType.FP64, (-1, -1, 2))
    for size in (0, 1, 7):
        assert checked_outputs({"output": np.ones((3, size, 2))}, [spec], 3)[0].shape[1] == size


def test_numbers_convert_to_the_type_of_the_signature_if_possible():
    spec = TensorSpec("output", DataType.FP64, (-1,))
    for array in (np.array([1, 2]), np.array([True, False]), np.array([1, 2], "u1")):
        found = checked_outputs({"output": array}, [spec], 2)[0]
        assert found.dtype == np.dtype("f8")
        assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("outputs", "spec", "message"),
    [
        ({}, LABEL, "the function returned nothing but not output 'label'"),
        (
            {"a": np.ones(2), "b": np.ones(2)},
            LABEL,
            "the function returned 'a', 'b' but not output 'label'",
        ),
        (
            {"label": np.array(3)},
            LABEL,
            "the function returned a single value in output 'label' for 2 rows of input",
        ),
        (
            {"label": np.ones(1, "i4")},
            LABEL,
            "the function returned 1 rows in output 'label' for 2 rows of input",
        ),
        (
            {"scores": np.ones((2, 4), "f4")},
            SCORES,
            "the function returned shape [2, 4] in output 'scores'; its signature says [-1, 3]; "
            "if sizes vary, deploy it with examples= of different sizes",
        ),
        (
            {"scores": np.ones(2, "f4")},
            SCORES,
            "the function returned shape [2] in output 'scores'; its signature says [-1, 3]; "
            "if sizes vary, deploy it with examples= of different sizes",
        ),
        (
            {"label": as_array("label", ["a", "b"])},
            LABEL,
            "the function returned texts in output 'label'; its signature says INT32",
        ),
        (
            {"text": np.ones(2)},
            TEXT,
            "the function returned numbers (float64) in output 'text'; its signature says BYTES",
        ),
        (
            {"label": np.array([1.5, 2])},
            LABEL,
            "the function returned float64 in output 'label', which does not fit INT32",
        ),
        (
            {"label": np.array([1, 2**40])},
            LABEL,
            "the function's output breaks its signature: cannot convert tensor 'label' to INT32: "
            "1099511627776 does not fit; give smaller numbers, or use a wider datatype",
        ),
    ],
)
def test_the_error_about_a_wrong_output_is_precise(outputs, spec, message):
    with pytest.raises(ModelFailed) as caught:
        checked_outputs(outputs, [spec], 2)
    assert caught.value.message == message


@pytest.mark.parametrize("value", [1e39, 16777217])
@pytest.mark.parametrize("datatype", [DataType.FP32, DataType.FP16, DataType.BF16])
def test_an_output_that_the_type_of_the_signature_would_change_is_refused(datatype, value):
    spec = TensorSpec("output", datatype, (-1,))
    with pytest.raises(ModelFailed, match=r"breaks its signature: .* would become"):
        checked_outputs({"output": np.array([value])}, [spec], 1)


def test_an_output_of_bf16_is_rounded():
    spec = TensorSpec("output", DataType.BF16, (-1,))
    (found,) = checked_outputs({"output": np.array([1.00390625, 1.01171875], "f4")}, [spec], 2)
    assert found.tolist() == [1.0, 1.015625]


hidden = np.ma.masked_less(np.array([1.0, 2.0]), 2)


@pytest.mark.parametrize(
    "value",
    [hidden, [hidden, hidden], (hidden,), [[hidden], [hidden]], [1.0, np.ma.masked], np.ma.masked],
    ids=repr,
)
def test_the_error_about_masked_elements_has_a_fix(value):
    with pytest.raises(ModelFailed, match=r"'x' has masked elements.* fill them.*\.filled\("):
        as_array("x", value)


def test_a_mask_without_masked_elements_is_accepted():
    assert as_array("x", np.ma.array([1.0, 2.0])).tolist() == [1.0, 2.0]
    assert as_array("x", [np.ma.array([1.0])]).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], "int64"),
        ([1, 2.5], "float64"),
        ([True, False], "bool"),
        ([np.float32(0.5), np.float32(1)], "float32"),
        ([np.int8(1), np.int8(2)], "int8"),
    ],
)
def test_an_array_of_number_objects_becomes_an_array_of_numbers(values, dtype):
    array = as_array("x", np.array([values, values], object))
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == [values, values]


@pytest.mark.parametrize(
    "value",
    [
        [2**53 + 1, 0.5],
        [[2**63 + 1, -1]],
        [np.int64(2**53 + 1), 0.5],
        np.array([2**53 + 1, 0.5], object),
        np.array([np.int64(2**53 + 1), 0.5], object),
    ],
    ids=repr,
)
def test_an_integer_among_fractions_is_exact_or_refused(value):
    with pytest.raises(ModelFailed, match=r"cannot convert tensor 'x' to FP64: .* would become"):
        as_array("x", value)


def test_large_exact_numbers_are_accepted():
    assert as_array("x", [2**60, 0.5, 1e300]).tolist() == [2**60, 0.5, 1e300]


class Sparse:
    def toarray(self):
        raise AssertionError("only named")


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ([1.0, None], "; for a missing number give float('nan')"),
        (Sparse(), "; give its .toarray()"),
        ({1, 2}, "; make it a list"),
        (iter([1]), "or all texts"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_error_about_an_odd_value_has_a_fix(value, advice):
    with pytest.raises(ModelFailed) as caught:
        as_array("x", value)
    assert caught.value.message.endswith(advice)


@pytest.mark.parametrize("result", [{1, 2}, frozenset("a")])
def test_the_error_about_a_set_advises_a_list(result):
    with pytest.raises(ModelFailed) as raised:
        named_outputs(result, "array")
    assert raised.value.message == (
        "'output' is a set, whose elements have no order; make it a list"
    )
