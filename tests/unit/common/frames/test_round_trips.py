"""Data frames arrive at a function as they were, for every type of column."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.frames.columns import columns_of, describe_frames, make_builder
from skysail_testing.examples import examples
from skysail_testing.frames import (
    PANDAS,
    POLARS,
    over_the_wire,
    pandas_series,
    polars_series,
)

IS_PANDAS_3 = int(pd.__version__.partition(".")[0]) >= 3
OBJECTS = {
    "truth values": [True, None],
    "integers": [1, None],
    "fractions": [1.5, None],
    "bytes": [b"a\0", None],
    "texts with NaN": ["a", np.nan],
    "texts with NA": ["a", pd.NA],
}
CATEGORIES = {
    "integers": pd.Series([3, None, 1], dtype="category"),
    "ordered": pd.Series(pd.Categorical(["a", "b"], ["b", "a", "c"], ordered=True)),
    "times": pd.Series([pd.Timestamp("2031-05-17"), pd.NaT], dtype="category"),
    "truth values": pd.Series([True, None], dtype="category"),
}


def same(frame: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(frame, other)


@pytest.mark.parametrize("dtype", PANDAS)
@settings(max_examples=examples(15))
@given(st.data())
def test_pandas(dtype, data):
    if dtype == "str" and not IS_PANDAS_3:
        pytest.skip("texts have a type of their own since pandas 3")
    elements = data.draw(st.lists(PANDAS[dtype], min_size=1, max_size=5))
    series = pandas_series(dtype, elements)
    assume(dtype not in ("object", "category") or series.notna().any())
    frame = pd.DataFrame({"x": series, "n": range(len(series))})
    same(over_the_wire(frame), frame)


@pytest.mark.parametrize("dtype", POLARS, ids=str)
@settings(max_examples=examples(15))
@given(st.data())
def test_polars(dtype, data):
    elements = data.draw(st.lists(POLARS[dtype], min_size=1, max_size=5))
    frame = pl.DataFrame({"x": polars_series(dtype, elements), "n": range(len(elements))})
    back = over_the_wire(frame)
    assert back.schema == frame.schema
    assert back.equals(frame)


@pytest.mark.parametrize("values", OBJECTS.values(), ids=OBJECTS)
def test_objects_of_pandas(values):
    frame = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    same(over_the_wire(frame), frame)
    assert type(over_the_wire(frame).x[1]) is type(values[1])


@pytest.mark.parametrize("series", CATEGORIES.values(), ids=CATEGORIES)
def test_categories_of_pandas(series):
    frame = pd.DataFrame({"x": series})
    same(over_the_wire(frame), frame)


def test_an_unknown_category_is_missing():
    example = pd.DataFrame({"x": pd.Series(["low", "high"], dtype="category")})
    back = over_the_wire(pd.DataFrame({"x": ["high", "middle"]}), example)
    same(back, pd.DataFrame({"x": pd.Categorical(["high", None], ["high", "low"])}))
    level = pl.Enum(["low", "high"])
    found = over_the_wire(
        pl.DataFrame({"x": ["middle"]}), pl.DataFrame({"x": ["low"]}, {"x": level})
    )
    assert found.to_dict(as_series=False) == {"x": [None]}
    assert found.schema == {"x": level}


def test_the_index_is_left_out():
    frame = pd.DataFrame({"x": [1, 2]}, index=["a", "b"])
    same(over_the_wire(frame), frame.reset_index(drop=True))


def test_columns_keep_their_order_and_may_be_many():
    names = [f"c{number}" for number in range(1000, 0, -1)]
    frame = pd.DataFrame(np.random.default_rng(5).random((2, 1000)), columns=names)
    same(over_the_wire(frame), frame)


def test_a_column_that_is_missing_in_an_example_of_several_gets_a_mask():
    record = describe_frames([pl.DataFrame({"x": [1]}), pl.DataFrame({"x": [2, None]})])
    assert record.columns[0].has_mask
    assert not describe_frames([pl.DataFrame({"x": [1]})]).columns[0].has_mask


def test_functions_may_write_to_their_data_frame():
    frame = pd.DataFrame({"x": [1.0], "y": [2.0]})
    record = describe_frames([frame])
    value = np.ones(1)
    value.flags.writeable = False
    built = make_builder(record).build({"x": value, "y": value})
    built.loc[0, "x"] = 7.0
    assert value.tolist() == [1.0]


TIME = datetime.time(12)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({3: [1]}), "column 3 has a name of type int; give names that are texts"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns have the name 'a'; rename one"),
        (pd.DataFrame({"": [1]}), "a column has an empty name"),
        (
            pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")])),
            "the columns of the data frame have several levels; give each one name",
        ),
        (
            pd.DataFrame({"a": ["x"], "a.is_null": [True]}),
            "the name of column 'a.is_null' is that of the mask of another; rename it",
        ),
        (pd.DataFrame({"a": [1j]}), "column 'a' has type complex128, which no datatype holds"),
        (pd.DataFrame({"a": [[1]]}), "column 'a' has objects of type list, which no datatype"),
        (
            pd.DataFrame({"a": pd.Series([1, "x"], dtype=object)}),
            "column 'a' has objects of type int and str",
        ),
        (pd.DataFrame({"a": pd.Series([2**63], dtype=object)}), "column 'a' has an integer beyond"),
        (pd.DataFrame({"a": pd.period_range("2031", periods=1)}), "column 'a' has type period"),
        (pd.DataFrame({"a": [None]}), "column 'a' of the example has only missing values"),
        (
            pd.DataFrame({"a": [pd.Timestamp("9999-01-01")]}),
            "tensor 'a' has a time that nanoseconds of 64 bits cannot express; the years 1678"
            if IS_PANDAS_3
            else "column 'a' has objects of type Timestamp",
        ),
        (
            pd.DataFrame({"a": pd.Categorical.from_codes([0], range(10_001))}),
            "column 'a' has 10001 categories; at most 10000 travel",
        ),
        (pl.DataFrame({"a": [[1]]}), "column 'a' has type List(Int64), which no datatype holds"),
        (pl.DataFrame({"a": [{"b": 1}]}), "column 'a' has type Struct"),
        (pl.DataFrame({"a": [TIME]}), "column 'a' has type Time"),
        (pl.DataFrame({"a": [None]}), "column 'a' of the example has only missing values"),
    ],
)
def test_what_no_input_can_be_is_refused_with_a_fix(frame, message):
    with pytest.raises(InvalidInput) as caught:
        over_the_wire(frame)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([pd.DataFrame({"b": [1]})], "the examples have different columns: ['a'] and ['b']"),
        ([pl.DataFrame({"a": [1]})], "the examples are not all data frames of pandas"),
        (
            [pd.DataFrame({"a": [1.5]})],
            "the examples have different types of column 'a': int64 and float64",
        ),
    ],
)
def test_examples_that_differ_are_refused(others, message):
    with pytest.raises(InvalidInput) as caught:
        describe_frames([pd.DataFrame({"a": [1]}), *others])
    assert caught.value.message == message


def test_a_column_of_a_query_may_be_all_missing():
    assert columns_of(pd.DataFrame({"a": [None]}))["a"].values is None
    assert columns_of(pl.DataFrame({"a": [None]}))["a"].values is None


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_a_matrix_becomes_a_data_frame(library, dtype):
    frame = library.DataFrame({"a": np.array([1, 2], dtype), "b": np.array([3, 4], dtype)})
    built = make_builder(describe_frames([frame])).build_matrix(np.array([[1, 3], [2, 4]], dtype))
    assert built.equals(frame)
    assert list(built.dtypes) == list(frame.dtypes)


def test_nan_of_a_matrix_is_null_in_polars():
    builder = make_builder(describe_frames([pl.DataFrame({"a": [0.5], "b": [1.0]})]))
    assert builder.build_matrix(np.array([[np.nan, 2.0]])).row(0) == (None, 2.0)
