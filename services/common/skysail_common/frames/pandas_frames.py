"""Columns of pandas: their elements as arrays, their description, and frames made of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skysail_common.errors import InvalidInput
from skysail_common.frames.columns import (
    FEW_ROWS,
    MAX_CATEGORIES,
    Column,
    Numbers,
    check_names,
    has_large_numbers,
    join_numbers,
    object_column,
    refuse,
)
from skysail_common.frames.nulls import mask_name
from skysail_common.frames.records import ColumnRecord, FrameRecord, Missing
from skysail_common.tensors import Array
from skysail_common.times import NANOSECONDS, nanoseconds

_ARROW = "ArrowDtype"
_NUMBERS = "iuf"
_MISSING = {"None": None, "NaN": np.nan, "NA": pd.NA}


def columns_of(frame: Any) -> dict[str, Column]:
    """Return the columns of a data frame by name (see `columns.columns_of`)."""
    return {name: column_of(name, series) for name, series in _named_series(frame)}


def _named_series(frame: Any) -> Iterator[tuple[str, Any]]:
    names = _names(frame)
    return ((name, series) for name, (_, series) in zip(names, frame.items(), strict=True))


def _names(frame: Any) -> list[str]:
    if frame.columns.nlevels > 1:
        raise InvalidInput(
            "the columns of the data frame have several levels; give each one name, such as by "
            "frame.columns = frame.columns.map('_'.join)"
        )
    return check_names(frame.columns.tolist())


def split_numbers(frame: Any) -> tuple[Numbers, dict[str, Column]]:
    """Return the columns of a data frame in two parts (see `columns.split_numbers`)."""
    names = _names(frame)
    rows = frame.to_numpy() if len(frame) <= FEW_ROWS else None
    if rows is not None and rows.dtype.kind in _NUMBERS and not has_large_numbers(rows):
        return (names, rows), {}
    numbers: dict[str, Array] = {}
    columns: dict[str, Column] = {}
    for index, (name, dtype) in enumerate(zip(names, frame.dtypes.tolist(), strict=True)):
        # A few rows are read faster than one column is taken out of a data frame.
        objects = rows[:, index] if rows is not None and rows.dtype.kind == "O" else None
        if _is_plain(dtype, _NUMBERS):
            numbers[name] = frame[name].to_numpy() if objects is None else objects.astype(dtype)
        elif objects is not None and _is_plain(dtype, "b"):
            columns[name] = Column(objects.astype(bool))
        elif objects is not None and isinstance(dtype, pd.StringDtype):
            columns[name] = _texts_of(
                objects, np.array([not isinstance(each, str) for each in objects])
            )
        else:
            columns[name] = column_of(name, frame[name])
    return join_numbers(numbers, columns)


def _is_plain(dtype: Any, kinds: str) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in kinds


def column_of(name: str, series: Any) -> Column:
    """Return the elements of a series (see `columns.column_of`)."""
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _categorical(name, series)
    if _is_plain(dtype, "b" + _NUMBERS):
        return Column(series.to_numpy())
    if isinstance(dtype, pd.StringDtype):
        return _texts(series)
    if _is_plain(dtype, "O"):
        values = series.to_numpy()
        return object_column(name, values, np.asarray(pd.isna(values), bool))
    kind = getattr(dtype, "kind", "")
    if kind in ("M", "m"):
        return _times(name, series, kind)
    # The other types with a mask, of pandas and of Arrow.
    if isinstance(dtype, (pd.ArrowDtype, *_MASKED)) and kind in tuple("b" + _NUMBERS):
        if kind == "f":
            return Column(series.to_numpy(dtype=dtype.numpy_dtype, na_value=np.nan))
        nulls = series.isna().to_numpy(bool)
        filled = series.fillna(dtype.type(0)) if nulls.any() else series
        return Column(filled.to_numpy(dtype=dtype.numpy_dtype), nulls if nulls.any() else None)
    if isinstance(dtype, pd.ArrowDtype) and dtype.type is str:
        return _texts(series)
    raise refuse(name, f"type {dtype}")


_MASKED = (
    pd.BooleanDtype, pd.Float32Dtype, pd.Float64Dtype, pd.Int8Dtype, pd.Int16Dtype, pd.Int32Dtype,
    pd.Int64Dtype, pd.UInt8Dtype, pd.UInt16Dtype, pd.UInt32Dtype, pd.UInt64Dtype,
)  # fmt: skip


def _texts(series: Any) -> Column:
    values = series.to_numpy(dtype=object, na_value=None)
    return _texts_of(values, series.isna().to_numpy(bool))


def _texts_of(values: Array, nulls: "npt.NDArray[np.bool_]") -> Column:
    if not nulls.any():
        return Column(values)
    values = values.copy()
    values[nulls] = ""
    return Column(values, nulls)


def _times(name: str, series: Any, kind: str) -> Column:
    dtype = series.dtype
    if isinstance(dtype, pd.ArrowDtype):
        if dtype.pyarrow_dtype.__class__.__name__ not in ("TimestampType", "DurationType"):
            raise refuse(name, f"type {dtype}", "convert it by pd.to_datetime")
        zone = getattr(dtype.pyarrow_dtype, "tz", None)
        unit = dtype.pyarrow_dtype.unit
        plain = f"{'datetime' if kind == 'M' else 'timedelta'}64[{unit}"
        series = series.astype(f"{plain}, {zone}]" if zone else f"{plain}]")
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    return Column(nanoseconds(name, series.to_numpy()))


def _categorical(name: str, series: Any) -> Column:
    categories = series.cat.categories
    codes = series.cat.codes.to_numpy()
    nulls = codes < 0
    if not len(categories):
        return Column(None, nulls)
    values = column_of(name, pd.Series(categories)).values
    assert values is not None
    return Column(values[np.where(nulls, 0, codes)], nulls if nulls.any() else None)


def describe_column(name: str, parts: Sequence[Any]) -> ColumnRecord:
    """Return the description of a column, of which the parts are examples."""
    dtype = parts[0].dtype
    for part in parts:
        if part.dtype != dtype:
            raise InvalidInput(
                f"the examples have different types of column {name!r}: {dtype} and {part.dtype}"
            )
    values = [column_of(name, part).values for part in parts]
    if any(each is None for each in values):
        raise InvalidInput(
            f"column {name!r} of the example has only missing values; give one that has a value"
        )
    if isinstance(dtype, pd.CategoricalDtype):
        return _describe_categories(name, dtype)
    has_sign = all(each is not None and each.dtype.kind in "fMm" for each in values)
    return ColumnRecord(
        name=name,
        dtype=_dtype_text(dtype),
        missing=_missing_of([each for part in parts for each in part.tolist()])
        if _is_plain(dtype, "O")
        else "",
        has_mask=not (has_sign or _is_plain(dtype, "biu")),
    )


def _missing_of(objects: Sequence[Any]) -> Missing:
    """Return the first missing value; without one NaN, which readers of files write."""
    for each in objects:
        if each is None:
            return "None"
        if each is pd.NA:
            return "NA"
    return "NaN"


def _describe_categories(name: str, dtype: Any) -> ColumnRecord:
    categories = dtype.categories
    if len(categories) > MAX_CATEGORIES:
        raise InvalidInput(
            f"column {name!r} has {len(categories)} categories; at most {MAX_CATEGORIES} travel: make "
            "it a column of texts"
        )
    values = column_of(name, pd.Series(categories)).values
    assert values is not None
    if values.dtype.kind in "Mm":
        values = values.view(np.int64)
    elements = values.tolist()
    if any(isinstance(each, bytes) for each in elements):
        raise refuse(name, "categories of bytes")
    return ColumnRecord(
        name=name,
        dtype="category",
        categories=tuple(elements),
        category_dtype=_dtype_text(categories.dtype),
        is_ordered=bool(dtype.ordered),
        has_mask=True,
    )


def _dtype_text(dtype: Any) -> str:
    if isinstance(dtype, pd.ArrowDtype):
        return f"{_ARROW}({dtype.pyarrow_dtype})"
    if isinstance(dtype, pd.StringDtype) and dtype.na_value is pd.NA:
        return f"string[{dtype.storage}]"
    return str(dtype)


def _dtype_of(text: str) -> Any:
    if not text.startswith(_ARROW):
        return pd.api.types.pandas_dtype(text)
    inner = text[len(_ARROW) + 1 : -1]
    if inner in ("string", "large_string", "string_view"):
        import pyarrow

        return pd.ArrowDtype(getattr(pyarrow, inner)())
    return pd.ArrowDtype.construct_from_string(f"{inner}[pyarrow]")


def make_builder(record: FrameRecord) -> "PandasBuilder":
    """Return the builder of data frames of a description."""
    return PandasBuilder(record)


class PandasBuilder:
    """A builder of data frames of pandas, with a new `RangeIndex`."""

    def __init__(self, record: FrameRecord) -> None:
        self._columns = [_ColumnBuilder(column) for column in record.columns]
        self._index = pd.Index([column.name for column in record.columns])
        dtypes = {column.dtype for column in self._columns}
        dtype = next(iter(dtypes))
        self._matrix_dtype = (
            dtype if len(dtypes) == 1 and _is_plain(dtype, "b" + _NUMBERS) else None
        )

    def build(self, inputs: Mapping[str, Array]) -> Any:
        """Return a new data frame (see `columns.FrameBuilder`)."""
        if self._matrix_dtype is None:
            series = {column.name: column.build(inputs) for column in self._columns}
            return pd.DataFrame(series, columns=self._index)
        # pandas makes a data frame of one block ten times as fast as of one array for each column.
        first = inputs[self._columns[0].name]
        matrix = np.empty((len(self._columns), len(first)), self._matrix_dtype)
        for row, column in zip(matrix, self._columns, strict=True):
            row[:] = inputs[column.name]
        return pd.DataFrame(matrix.T, columns=self._index, copy=False)

    def build_matrix(self, matrix: Array) -> Any:
        """Return a new data frame (see `columns.FrameBuilder`)."""
        if self._matrix_dtype is None:
            columns = zip(self._columns, matrix.T, strict=True)
            return self.build({column.name: values for column, values in columns})
        return pd.DataFrame(_plain(matrix, self._matrix_dtype), columns=self._index, copy=False)

    def first_row(self, frame: Any) -> Any:
        """Return the first row of a data frame."""
        return frame.iloc[0]


class _ColumnBuilder:
    """A builder of one column."""

    def __init__(self, record: ColumnRecord) -> None:
        self.name = record.name
        self._mask = mask_name(record.name) if record.has_mask else ""
        self._missing = _MISSING.get(record.missing)
        self._codes: dict[Any, int] = {}
        if record.category_dtype:
            self._codes = {category: code for code, category in enumerate(record.categories)}
            self.dtype: Any = _categorical_dtype(record)
        else:
            self.dtype = _dtype_of(record.dtype)

    def build(self, inputs: Mapping[str, Array]) -> Any:
        """Return the array of the column."""
        values = inputs[self.name]
        nulls = inputs[self._mask] if self._mask else None
        dtype = self.dtype
        if self._codes:
            return self._categories(values, nulls)
        if _is_plain(dtype, "O"):
            return self._objects(values, nulls)
        if nulls is None or not nulls.any():
            return _plain(values, dtype)
        if isinstance(dtype, _MASKED):
            return _plain(values, dtype, nulls)
        filled = values.astype(object)
        filled[nulls] = None
        return _extension(filled, dtype)

    def _categories(self, values: Array, nulls: Array | None) -> Any:
        if values.dtype.kind in "Mm":
            values = values.view(np.int64)
        codes = np.array([self._codes.get(each, -1) for each in values.tolist()], np.intp)
        if nulls is not None:
            codes[nulls] = -1
        return pd.Categorical.from_codes(codes, dtype=self.dtype)

    def _objects(self, values: Array, nulls: Array | None) -> Any:
        objects = values.astype(object)
        if nulls is None:
            nulls = np.isnan(values) if values.dtype.kind == "f" else None
        if nulls is not None and nulls.any():
            objects[nulls] = self._missing
        # A bare array of texts would become a column of the type for texts.
        return pd.Series(objects, dtype=object, copy=False)


def _categorical_dtype(record: ColumnRecord) -> Any:
    dtype = _dtype_of(record.category_dtype)
    categories: Array
    if isinstance(record.categories[0], str):
        categories = np.array(record.categories, object)
    else:
        categories = np.array(record.categories)
        if dtype.kind in "Mm":
            categories = categories.view(NANOSECONDS[dtype.kind])
    return pd.CategoricalDtype(pd.Index(_plain(categories, dtype)), record.is_ordered)


def _plain(values: Array, dtype: Any, nulls: Array | None = None) -> Any:
    """Return values of a tensor as an array of pandas."""
    if isinstance(dtype, np.dtype):
        return values if values.dtype == dtype else values.astype(dtype)
    if isinstance(dtype, _MASKED):
        if nulls is None:
            nulls = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        return dtype.construct_array_type()(values.astype(dtype.numpy_dtype), nulls)
    if isinstance(dtype, pd.DatetimeTZDtype):
        times = pd.DatetimeIndex(values).tz_localize("UTC").tz_convert(dtype.tz)
        return times.as_unit(dtype.unit)
    return _extension(values, dtype)


def _extension(values: Array, dtype: Any) -> Any:
    if isinstance(dtype, pd.ArrowDtype):
        import pyarrow

        made = pyarrow.array(
            values.tolist() if values.dtype == object else values, from_pandas=True
        )
        if getattr(dtype.pyarrow_dtype, "tz", None):
            made = made.cast(pyarrow.timestamp("ns", "UTC"))
        return pd.arrays.ArrowExtensionArray(made.cast(dtype.pyarrow_dtype))
    return pd.array(values, dtype=dtype)


def make_frame(columns: Mapping[str, Column]) -> Any:
    """Return a data frame of columns (see `columns.make_frame`)."""
    return pd.DataFrame({name: _series_of(column) for name, column in columns.items()})


def _series_of(column: Column) -> Any:
    values, nulls = column.values, column.nulls
    assert values is not None
    if values.ndim > 1:
        return pd.Series(list(values), dtype=object)
    if nulls is None:
        return values
    if values.dtype.kind in "biu":
        masked = pd.arrays.BooleanArray if values.dtype.kind == "b" else pd.arrays.IntegerArray
        return masked(values, nulls)
    objects = values.astype(object)
    objects[nulls] = None
    return objects
