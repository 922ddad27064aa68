import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.tensors import (
    Content,
    DataType,
    Signature,
    Tensor,
    TensorSpec,
    split_bytes_elements,
    to_numpy,
)
from skysail_frontend.core.query import Outcome, Prediction
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.ingress.outputs import default_tensors, output_tensors
from skysail_testing.examples import examples
from unit.frontend.parts import DOUBLES, Frontend, application, served, texts


def giving(*outputs: TensorSpec) -> ServedVersion:
    return served(signature=Signature(DOUBLES.inputs, outputs))


def output(datatype: DataType, *dims: int) -> ServedVersion:
    return giving(TensorSpec("y", datatype, (-1, *dims)))


def one(value: object, version: ServedVersion | None = None, rows: int = 1) -> Tensor:
    (tensor,) = default_tensors(value, rows, version)
    return tensor


def elements_of(tensor: Tensor) -> list:
    return to_numpy(tensor).tolist()


def test_the_outputs_of_a_model_have_the_names_of_its_signature():
    version = giving(TensorSpec("a", DataType.INT8, (-1, 2)), texts("b", Content.JSON_OR_TEXT))
    frontend = Frontend(version)
    query = frontend.query(rows=2)
    prediction = Prediction(Outcome.OK, [b"\1\2\3\4", b"\0" * 8], [(2, 2), (2,)])
    assert output_tensors(query, prediction) == [
        Tensor("a", DataType.INT8, (2, 2), b"\1\2\3\4"),
        Tensor("b", DataType.BYTES, (2,), b"\0" * 8, Content.JSON_OR_TEXT),
    ]


def test_a_default_output_repeats_for_each_row():
    app = application("app", default=[1.0, 2.0, 3.0])
    frontend = Frontend(served())
    query = frontend.query(rows=2, application=app)
    prediction = Prediction(Outcome.DEFAULT_DEADLINE, explanation="late")
    (tensor,) = output_tensors(query, prediction)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("y", DataType.FP64, (2, 3))
    assert elements_of(tensor) == [[1.0, 2.0, 3.0]] * 2


def test_a_default_output_without_a_version_has_the_default_name():
    assert one(1.5).name == "output"
    assert elements_of(one(1.5, rows=3)) == [1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("value", "datatype"),
    [
        (0, DataType.FP32),
        ([0, 1], DataType.FP16),
        (1.5, DataType.FP64),
        (7, DataType.UINT8),
        ([[1, 2], [3, 4]], DataType.INT16),
        (True, DataType.BOOL),
        (True, DataType.INT32),
    ],
)
def test_numbers_get_the_type_of_the_output_if_they_fit(value, datatype):
    tensor = one(value, output(datatype), rows=2)
    assert tensor.datatype is datatype
    assert elements_of(tensor) == [value, value]


@pytest.mark.parametrize(
    ("value", "datatype", "own"),
    [
        (300, DataType.UINT8, DataType.INT64),
        (-1, DataType.UINT64, DataType.INT64),
        (1.5, DataType.INT32, DataType.FP64),
        ("none", DataType.FP64, DataType.BYTES),
        (1.5, DataType.BF16, DataType.FP64),
        (7, DataType.BOOL, DataType.INT64),
    ],
)
def test_a_value_that_does_not_fit_keeps_its_own_type(value, datatype, own):
    tensor = one(value, output(datatype))
    assert tensor.datatype is own
    assert elements_of(tensor) == [value]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ([1, "a"], None),
        ([[1], [2, 3]], "[[1], [2, 3]]"),
        ([{"a": 1}], '[{"a": 1}]'),
        ([], None),
    ],
)
def test_a_value_that_is_not_an_array_becomes_json_text(value, text):
    tensor = one(value, output(DataType.FP64, 3), rows=2)
    if text is not None:
        assert (tensor.datatype, tensor.content) == (DataType.BYTES, Content.JSON_OR_TEXT)
        assert split_bytes_elements(tensor.data, 2) == [text.encode()] * 2


@pytest.mark.parametrize(
    ("value", "text"),
    [("none", "none"), (0, "0"), ([1, 2], "[1, 2]"), (None, "null"), ("7", '"7"')],
)
def test_an_output_of_texts_has_a_text_for_each_row(value, text):
    version = giving(texts("y", Content.JSON_OR_TEXT))
    tensor = one(value, version, rows=2)
    assert (tensor.datatype, tensor.shape) == (DataType.BYTES, (2,))
    assert split_bytes_elements(tensor.data, 2) == [text.encode()] * 2


def test_a_dictionary_names_the_outputs():
    version = giving(TensorSpec("score", DataType.FP32, (-1,)), texts("label"))
    score, label, other = default_tensors({"score": 1, "label": "cat", "other": [1]}, 2, version)
    assert (score.name, score.datatype, elements_of(score)) == ("score", DataType.FP32, [1.0, 1.0])
    assert (label.name, elements_of(label)) == ("label", ["cat", "cat"])
    assert (other.name, other.datatype, elements_of(other)) == ("other", DataType.INT64, [[1]] * 2)


def test_an_empty_dictionary_names_no_output():
    assert default_tensors({}, 2, served()) == []


# Numbers, texts and names as `json.loads` gives them, which is more than most readers take.
odd_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**63 - 2, 2**64 + 2)
    | st.floats()
    | st.text(st.characters(), max_size=3)
    | st.just("\ud800")
)
defaults = st.recursive(
    odd_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)
versions = st.none() | st.builds(output, st.sampled_from(DataType), st.sampled_from([1, 3]))


@settings(max_examples=examples(60))
@given(defaults, st.integers(1, 3), versions)
def test_every_json_value_can_be_a_default_output(value, rows, version):
    value = json.loads(json.dumps(value))
    for tensor in default_tensors(value, rows, version):
        assert tensor.shape[0] == rows
        assert to_numpy(tensor).shape == tensor.shape


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("\ud800", "?"),
        (10**30, "1" + "0" * 30),
        ([10**30], "[1" + "0" * 30 + "]"),
        ([[float("nan")], 1], "[[NaN], 1]"),
        (["\ud800", 1], '["?", 1]'),
    ],
)
def test_a_value_of_unusual_type_becomes_text(value, text):
    assert elements_of(one(value, served())) == [text]
