"""Data frames with a column of each type, and their way to a replica and back."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import polars as pl
from hypothesis import strategies as st

from skysail_common.frames.columns import describe_frames, example_inputs, make_builder
from skysail_common.tensors import Array, from_numpy, to_numpy


def _or_missing(elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), elements)


def _integers(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


_TEXTS = _or_missing(st.text(st.characters(exclude_categories=["Cs"])))
_MILLISECONDS = _or_missing(st.integers(-(2**42), 2**42))
_LEVELS = _or_missing(st.sampled_from(["low", "high"]))

PANDAS: Mapping[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int8": _integers(8),
    "int64": _integers(64),
    "uint8": st.integers(0, 2**8 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "str": _TEXTS,
    "string[python]": _TEXTS,
    "string[pyarrow]": _TEXTS,
    "object": _TEXTS,
    "boolean": _or_missing(st.booleans()),
    "Int64": _or_missing(_integers(64)),
    "UInt8": _or_missing(st.integers(0, 255)),
    "Float64": _or_missing(st.floats(allow_nan=False)),
    "int32[pyarrow]": _or_missing(_integers(32)),
    "double[pyarrow]": _or_missing(st.floats(allow_nan=False)),
    "bool[pyarrow]": _or_missing(st.booleans()),
    "datetime64[ns]": _or_missing(st.integers(-(2**62), 2**62)),
    "datetime64[ms]": _MILLISECONDS,
    "datetime64[ms, Europe/Oslo]": _MILLISECONDS,
    "timestamp[ms][pyarrow]": _MILLISECONDS,
    "timedelta64[us]": _MILLISECONDS,
    "category": _LEVELS,
}
"""Elements of each type of pandas, as `pd.Series` takes them."""

POLARS: Mapping[Any, st.SearchStrategy[Any]] = {
    pl.Boolean(): _or_missing(st.booleans()),
    pl.Int8(): _or_missing(_integers(8)),
    pl.Int64(): _or_missing(_integers(64)),
    pl.UInt64(): _or_missing(st.integers(0, 2**64 - 1)),
    pl.Float32(): _or_missing(st.floats(width=32, allow_nan=False)),
    pl.Float64(): _or_missing(st.floats(allow_nan=False)),
    pl.String(): _TEXTS,
    pl.Binary(): _or_missing(st.binary()),
    pl.Categorical(): _LEVELS,
    pl.Enum(["low", "middle", "high"]): _LEVELS,
    pl.Date(): _or_missing(st.integers(-40_000, 40_000)),
    pl.Datetime("ms"): _MILLISECONDS,
    pl.Datetime("us", "Europe/Oslo"): _MILLISECONDS,
    pl.Duration("ms"): _MILLISECONDS,
}
"""Elements of each type of polars, as `pl.Series` takes them."""


def pandas_series(dtype: str, elements: list[Any]) -> Any:
    """Return a series of pandas."""
    return pd.Series(elements, dtype=dtype)


def polars_series(dtype: Any, elements: list[Any]) -> Any:
    """Return a series of polars."""
    if dtype.is_temporal():
        return pl.Series(elements, dtype=pl.Int64).cast(dtype)
    return pl.Series(elements, dtype=dtype)


def over_the_wire(frame: Any, example: Any = None) -> Any:
    """Return the data frame that a function gets for a data frame.

    Args:
        frame: The data frame of a query.
        example: Data frame of the deploy; the same if None.
    """
    record = describe_frames([frame if example is None else example])
    return make_builder(record).build(sent(example_inputs(record, frame)))


def sent(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Return inputs after their conversion to bytes and back."""
    return {name: to_numpy(from_numpy(name, array)) for name, array in inputs.items()}
