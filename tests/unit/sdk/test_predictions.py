from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from skysail.predictions import (
    Prediction,
    describe_shapes,
    prediction_from_proto,
)
from skysail.query_inputs import read_inputs, split_rows
from skysail_common.errors import InvalidInput
from skysail_common.rpc.messages import duration, tensor_from_proto, tensor_to_proto
from skysail_common.tensors import Content, DataType, Tensor, from_numpy, to_numpy
from skysail_protos.v1 import query_pb2
from skysail_testing.examples import examples

NUMBERS = [each for each in DataType if each not in (DataType.BYTES, DataType.BF16)]


def encoded(value: Any) -> Tensor:
    (message,) = read_inputs(value).tensors
    return tensor_from_proto(message)


def response(*tensors: Tensor, **fields: Any) -> query_pb2.PredictResponse:
    fields = {"outcome": query_pb2.OUTCOME_OK, **fields}
    return query_pb2.PredictResponse(outputs=map(tensor_to_proto, tensors), **fields)


def there_and_back(value: Any) -> Any:
    """Return the response of an identity model."""
    wire = response(encoded(value)).SerializeToString()
    return prediction_from_proto(query_pb2.PredictResponse.FromString(wire)).output


def text_output(text: str | bytes) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = text
    return prediction_from_proto(response(from_numpy("output", array, Content.JSON_OR_TEXT))).output


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "content"),
    [
        (3, "INT64", (1,), "BINARY"),
        (3.5, "FP64", (1,), "BINARY"),
        (True, "BOOL", (1,), "BINARY"),
        (np.float32(3), "FP32", (1,), "BINARY"),
        ("text", "BYTES", (1,), "TEXT"),
        ("", "BYTES", (1,), "TEXT"),
        (b"bytes", "BYTES", (1,), "BINARY"),
        ([1, 2, 3], "INT64", (1, 3), "BINARY"),
        ([1, 2.5], "FP64", (1, 2), "BINARY"),
        ([], "FP64", (1, 0), "BINARY"),
        (["a", "b"], "BYTES", (1, 2), "TEXT"),
        (np.ones((2, 3), "f4"), "FP32", (1, 2, 3), "BINARY"),
    ],
)
def test_one_input_is_a_tensor_with_one_row(value, datatype, shape, content):
    tensor = encoded(value)
    assert tensor.name == ""
    assert tensor.datatype.name == datatype
    assert tensor.shape == shape
    assert tensor.content.name == content


def test_a_dictionary_is_a_tensor_of_each_name():
    tensors = [
        tensor_from_proto(message) for message in read_inputs({"age": 3, "name": "Ada"}).tensors
    ]
    assert [(tensor.name, tensor.datatype.name) for tensor in tensors] == [
        ("age", "INT64"),
        ("name", "BYTES"),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([None, "a"], "the input is not usable: 'input' holds a value of type NoneType"),
        ([2**53 + 1, 0.5], "the input is not usable: cannot convert tensor 'input' to FP64"),
        (
            np.ma.masked_less([1.0, 2.0], 2),
            "the input is not usable: 'input' has masked elements, which no datatype holds; fill",
        ),
        ([[1], [2, 3]], "the input is not usable: 'input' is not an array"),
        (2**70, f"the input is not usable: 'input' holds {2**70}, which is not a 64-bit integer"),
        (
            {("a", 1): 1},
            "the input is a dictionary, whose keys must be names of inputs, got ('a', 1)",
        ),
        (1j, "the input is not usable: 'input' has numpy type complex128"),
        ({"age": object()}, "the input is not usable: 'age' holds a value of type object"),
        ("\ud83d", "tensor 'input' has a text that is not UTF-8"),
    ],
)
def test_an_input_that_is_no_array_is_refused(value, message):
    with pytest.raises(InvalidInput) as caught:
        read_inputs(value)
    assert caught.value.message.startswith(message)


class NAType:
    """Stands for the missing value of pandas."""


@pytest.mark.parametrize("value", [[1, None], [0.5, None], np.array([1, NAType()], object)])
def test_a_missing_number_is_nan(value):
    (message,) = read_inputs(value).tensors
    (row,) = to_numpy(tensor_from_proto(message))
    assert row.dtype == np.float64
    assert row[0] == value[0]
    assert np.isnan(row[1])


@pytest.mark.parametrize(
    "value",
    [None, np.nan, NAType(), np.datetime64("NaT", "ns")],
    ids=lambda each: type(each).__name__,
)
def test_a_missing_feature_is_only_its_mask(value):
    (message,) = read_inputs({"income": value}).tensors
    assert message.name == "income.is_null"
    assert to_numpy(tensor_from_proto(message)).tolist() == [True]


@pytest.mark.parametrize("datatype", NUMBERS, ids=lambda each: each.name)
@settings(max_examples=examples(10))
@given(st.data())
def test_arrays_come_back_with_their_type_and_shape(datatype, data):
    array = data.draw(arrays(datatype.dtype, array_shapes(max_dims=3, max_side=3)))
    back = there_and_back(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


@settings(max_examples=examples(50))
@given(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.booleans(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
    )
)
def test_single_values_come_back_as_values_of_python(value):
    back = there_and_back(value)
    assert type(back) is type(value)
    assert back == value


@settings(max_examples=examples(30))
@given(st.lists(st.text(), min_size=1) | st.lists(st.binary(), min_size=1))
def test_lists_of_texts_come_back_as_arrays_of_them(value):
    assert there_and_back(value).tolist() == value


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("[1, 2.5]", [1, 2.5]),
        ('{"label": "cat"}', {"label": "cat"}),
        ('"quoted"', "quoted"),
        ("null", None),
        ("cat", "cat"),
        ("", ""),
        ("[1, 2", "[1, 2"),
        ("é", "é"),
    ],
)
def test_a_text_that_may_be_json_is_its_value_if_it_is(text, output):
    assert text_output(text) == output


def test_text_and_bytes_are_never_taken_for_json():
    for value in ("[1]", b"[1]"):
        assert there_and_back(value) == value


def test_bf16_comes_back_as_what_numpy_has():
    tensor = Tensor("output", DataType.BF16, (1, 2), bytes.fromhex("803f 20c1"))
    assert prediction_from_proto(response(tensor)).output.tolist() == [1.0, -10.0]


def test_a_sole_output_is_the_output_and_several_are_a_dictionary():
    label = from_numpy("label", np.array([3]))
    score = from_numpy("score", np.array([0.5]))
    assert prediction_from_proto(response(label)).output == 3
    assert prediction_from_proto(response(label, score)).output == {"label": 3, "score": 0.5}
    assert prediction_from_proto(response(label, score)).outputs == {"label": 3, "score": 0.5}
    assert prediction_from_proto(response()).output == {}


def test_a_prediction_has_its_outcome_and_timings():
    prediction = prediction_from_proto(
        response(
            from_numpy("label", np.array([-1])),
            query_id="7",
            outcome=query_pb2.OUTCOME_DEFAULT_DEADLINE,
            is_default=True,
            explanation="no prediction within 100 ms",
            model="digits",
            version="2",
            timings=query_pb2.Timings(
                queue=duration(0.25),
                batch_wait=duration(0.5),
                compute=duration(1),
                total=duration(2),
            ),
        )
    )
    assert isinstance(prediction, Prediction)
    assert prediction.query_id == "7"
    assert prediction.outcome == "DEFAULT_DEADLINE"
    assert prediction.is_default
    assert prediction.explanation == "no prediction within 100 ms"
    assert (prediction.model, prediction.version) == ("digits", "2")
    timings = prediction.timings
    assert (timings.queue_s, timings.batch_wait_s) == (0.25, 0.5)
    assert (timings.compute_s, timings.total_s) == (1, 2)


def test_every_outcome_has_a_name():
    for name, number in query_pb2.Outcome.items():
        assert prediction_from_proto(response(outcome=number)).outcome == name.removeprefix(
            "OUTCOME_"
        )


@pytest.mark.parametrize(
    ("expected", "got", "told"),
    [
        ("[-1,64]", "[1,1,64]", "takes one of shape [64], got [1,64]"),
        ("[-1,64]", "[1,2]", "takes one of shape [64], got [2]"),
        ("[-1]", "[1,2]", "takes one of shape [], got [2]; give a single value, not a list"),
        ("[-1,-1,3]", "[1]", "takes one of shape [-1,3], got []"),
    ],
)
def test_shapes_in_errors_have_no_batch_axis(expected, got, told):
    what = "unexpected shape for input 'x' for model 'm'"
    message = f"{what}. Expected {expected}, got {got}. NOTE: the first dimension is the batch."
    assert describe_shapes(message, "takes one") == f"{what}: {told}"
    assert describe_shapes(message, "takes one", "that") == f"{what}: {told}; for many use that"


def test_a_message_about_something_else_stays_as_it_is():
    assert describe_shapes("the queue is full", "takes one", "that") == "the queue is full"


@pytest.mark.parametrize("inputs", ["text", b"bytes", {"x": [1]}, 5, None])
def test_one_input_is_not_many(inputs):
    with pytest.raises(InvalidInput, match=r"inputs must be a list of inputs, got a .*; for one"):
        split_rows(inputs)
