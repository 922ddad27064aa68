"""Data frames and series that a function returns, as outputs by name."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skysail_common.errors import ModelFailed
from skysail_common.model_functions import checked_outputs, named_outputs
from skysail_common.tensors import Content, DataType, TensorSpec

LABEL = TensorSpec("label", DataType.BYTES, (-1,), Content.TEXT)
LABEL_MASK = TensorSpec("label.is_null", DataType.BOOL, (-1,), Content.NULL_MASK)
SCORE = TensorSpec("score", DataType.FP64, (-1,))
WHEN = TensorSpec("when", DataType.INT64, (-1,), Content.DATETIME)
TIMES = np.array(["2031-05-17", "NaT"], "M8[s]")


def outputs(result):
    return {name: array.tolist() for name, array in named_outputs(result, "frame").items()}


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_each_column_is_an_output(library):
    frame = library.DataFrame({"label": ["a", "b"], "score": [0.5, 1.0]})
    assert outputs(frame) == {"label": ["a", "b"], "score": [0.5, 1.0]}


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_a_column_with_missing_texts_has_a_mask(library):
    assert outputs(library.DataFrame({"label": ["a", None]})) == {
        "label": ["a", ""],
        "label.is_null": [False, True],
    }


def test_labels_that_are_numbers_become_texts():
    assert outputs(pd.DataFrame(np.eye(2))) == {"0": [1.0, 0.0], "1": [0.0, 1.0]}


@pytest.mark.parametrize(
    "result",
    [
        pd.Series([1, 2], index=["x", "y"], name="age"),
        pd.Series([1, 2], dtype="Int64"),
        pl.Series("age", [1, 2]),
    ],
    ids=["pandas", "nullable", "polars"],
)
def test_a_series_is_the_only_output(result):
    assert outputs(result) == {"output": [1, 2]}


def test_a_dictionary_may_hold_series():
    assert outputs({"n": pd.Series([1, None], dtype="Int64"), "x": [1, 2]}) == {
        "n": [1, 0],
        "n.is_null": [False, True],
        "x": [1, 2],
    }


def test_the_fields_of_a_structured_array_are_outputs():
    array = np.array([(1, 0.5), (2, 1.0)], [("label", "i4"), ("score", "f8")])
    assert outputs(array) == {"label": [1, 2], "score": [0.5, 1.0]}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), "a data frame with two columns of one name"),
        (pd.Series([[1]]), "the function returned a series: column 'output' has objects of type"),
    ],
    ids=["labels", "lists"],
)
def test_what_is_no_output_is_refused(result, message):
    with pytest.raises(ModelFailed, match=message):
        named_outputs(result, "frame")


def test_times_are_nanoseconds():
    (times,) = checked_outputs({"when": TIMES}, [WHEN], 2)
    assert times.dtype == "M8[ns]"
    for wrong, text in ((np.ones(2), "float64"), (TIMES - TIMES, "timedelta64")):
        with pytest.raises(ModelFailed, match=f"returned {text}.* in output 'when'; its signature"):
            checked_outputs({"when": wrong}, [WHEN], 2)


def test_an_answer_without_missing_values_has_an_empty_mask():
    found = checked_outputs(outputs_of(["a", "b"]), [LABEL, LABEL_MASK], 2)
    assert [array.tolist() for array in found] == [["a", "b"], [False, False]]


def test_an_answer_of_only_missing_values_fits_any_type():
    found = checked_outputs(outputs_of([None, None]), [LABEL, LABEL_MASK], 2)
    assert [array.tolist() for array in found] == [["", ""], [True, True]]
    (scores,) = checked_outputs({"score.is_null": np.ones(2, bool)}, [SCORE], 2)
    assert np.isnan(scores).all()


def test_a_missing_value_without_a_mask_in_the_signature_is_an_error():
    with pytest.raises(ModelFailed, match="returned a missing value in output 'label', and none"):
        checked_outputs(outputs_of(["a", None]), [LABEL], 2)


def outputs_of(labels):
    return named_outputs(pd.DataFrame({"label": pd.Series(labels, dtype=object)}), "frame")
