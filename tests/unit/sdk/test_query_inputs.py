"""What users give for a query, as tensors by name."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skysail.query_inputs import read_inputs, split_rows
from skysail_common.errors import InvalidInput
from skysail_common.rpc.messages import tensor_from_proto
from skysail_common.tensors import to_numpy

LIBRARIES = pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])


def read(value):
    """Return the names of the columns of the matrix, and each tensor as a list by name."""
    inputs = read_inputs(value)
    tensors = [tensor_from_proto(message) for message in inputs.tensors]
    return list(inputs.columns), {each.name: to_numpy(each).tolist() for each in tensors}


@LIBRARIES
def test_numbers_of_a_data_frame_are_one_matrix(library):
    frame = library.DataFrame({"a": [1.0, 2.0], "b": [3, 4]})
    assert read(frame) == (["a", "b"], {"": [[1.0, 3.0], [2.0, 4.0]]})
    assert read_inputs(frame).num_rows == 2
    assert read_inputs(frame).library == library.__name__


@LIBRARIES
def test_other_columns_of_a_data_frame_have_tensors_of_their_own(library):
    frame = library.DataFrame({"n": [1, 2], "city": ["Oslo", None], "b": [True, False]})
    assert read(frame) == (
        ["n"],
        {
            "": [[1], [2]],
            "city": ["Oslo", ""],
            "city.is_null": [False, True],
            "b": [True, False],
        },
    )


def test_large_integers_beside_fractions_stay_integers():
    frame = pd.DataFrame({"id": [2**60 + 1], "x": [0.5]})
    assert read(frame) == ([], {"id": [2**60 + 1], "x": [0.5]})


def test_a_column_of_missing_values_is_only_its_mask():
    assert read(pd.DataFrame({"city": [None]})) == ([], {"city.is_null": [True]})


def test_a_column_of_nulls_in_polars_is_nan():
    # A frontend makes a mask of it if the column of the model has no NaN.
    columns, tensors = read(pl.DataFrame({"city": [None]}))
    assert columns == ["city"]
    assert np.isnan(tensors[""]).all()


def test_a_data_frame_with_numbered_columns_is_an_array():
    assert read(pd.DataFrame([[1.0, 2.0]])) == ([], {"": [[1.0, 2.0]]})


def test_a_series_with_names_is_a_row():
    assert read(pd.Series([1.0, 2.5], ["a", "b"])) == (["a", "b"], {"": [[1.0, 2.5]]})
    assert read(pd.Series([1, "x", None], ["a", "b", "c"])) == (
        [],
        {"a": [1], "b": ["x"], "c.is_null": [True]},
    )
    assert read(pd.Series([1.0, 2.5])) == ([], {"": [[1.0, 2.5]]})


def test_a_list_of_dictionaries_is_rows():
    rows = [{"age": 31, "city": "Oslo"}, {"age": None, "city": None}]
    assert read(rows) == (
        [],
        {
            "age": [31, 0],
            "age.is_null": [False, True],
            "city": ["Oslo", ""],
            "city.is_null": [False, True],
        },
    )
    assert read_inputs(rows).num_rows == 2
    assert read([{"x": [1, 2]}, {"x": [3, 4]}]) == ([], {"x": [[1, 2], [3, 4]]})


UTC = datetime.timezone.utc
NOON = 1_000_000_000 * 60 * 60 * 12


@pytest.mark.parametrize(
    "value",
    [
        datetime.datetime(1970, 1, 1, 12),
        datetime.datetime(1970, 1, 1, 14, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
        pd.Timestamp("1970-01-01 12:00"),
        pd.Timestamp("1970-01-01 12:00", tz="UTC"),
        np.datetime64("1970-01-01T12:00"),
        datetime.timedelta(hours=12),
        pd.Timedelta(hours=12),
    ],
    ids=lambda each: f"{type(each).__name__} {each}",
)
def test_times_are_nanoseconds(value):
    assert read({"when": value}) == ([], {"when": [NOON]})
    assert read([{"when": value}]) == ([], {"when": [NOON]})


def test_a_date_is_its_midnight():
    value = datetime.date(1970, 1, 2)
    assert read({"when": value}) == ([], {"when": [2 * NOON]})
    assert read([{"when": value}]) == ([], {"when": [2 * NOON]})


@LIBRARIES
def test_each_row_of_a_data_frame_is_an_input(library):
    frame = library.DataFrame({"n": [1, 2], "city": ["Oslo", None]})
    assert [read(row) for row in split_rows(frame)] == [
        (["n"], {"": [[1]], "city": ["Oslo"]}),
        (["n"], {"": [[2]], "city": [""], "city.is_null": [True]}),
    ]
    assert all(row.num_rows is None for row in split_rows(frame))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.DataFrame({"a": []}), "the data frame has no row; give at least one"),
        (pd.DataFrame({"a": ["x"], 3: [1]}), "column 3 has a name of type int"),
        (pd.DataFrame({"a": [1j]}), "column 'a' has type complex128"),
        (
            [{"a": 1, "b": 2}, {"a": 1, "c": 2}],
            "row 1 differs from row 0 in 'b', 'c'; give each row the same names",
        ),
        ([{"a": 1}, {"a": "x"}], "column 'a' has objects of type int and str"),
    ],
)
def test_what_is_no_query_is_refused(value, message):
    with pytest.raises(InvalidInput) as caught:
        read_inputs(value)
    assert caught.value.message.startswith(message)
