"""Columns of polars: their elements as arrays, their description, and frames made of them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from skysail_common.errors import InvalidInput
from skysail_common.frames.columns import (
    FEW_ROWS,
    MAX_CATEGORIES,
    Column,
    Numbers,
    check_names,
    has_large_numbers,
    join_numbers,
    refuse,
)
from skysail_common.frames.nulls import mask_name
from skysail_common.frames.records import ColumnRecord, FrameRecord
from skysail_common.tensors import Array
from skysail_common.times import nanoseconds

_PARAMETERS = re.compile(r"(\w+)(?:\[(\w+)(?:, (.+))?\])?")
_TEXTS = (pl.String, pl.Categorical, pl.Enum)


def columns_of(frame: Any) -> dict[str, Column]:
    """Return the columns of a data frame by name (see `columns.columns_of`)."""
    check_names(frame.columns)
    return {each.name: column_of(each.name, each) for each in frame.get_columns()}


def split_numbers(frame: Any) -> tuple[Numbers, dict[str, Column]]:
    """Return the columns of a data frame in two parts (see `columns.split_numbers`)."""
    names = check_names(frame.columns)
    if len(frame) <= FEW_ROWS:
        matrix = frame.to_numpy()
        if matrix.dtype.kind in "iuf" and not has_large_numbers(matrix):
            return (names, matrix), {}
    numbers: dict[str, Array] = {}
    columns: dict[str, Column] = {}
    for series in frame.get_columns():
        # A column of integers with nulls would become one of floating-point numbers.
        if _is_numeric(series.dtype) and (series.dtype.is_float() or not series.null_count()):
            numbers[series.name] = series.to_numpy()
        else:
            columns[series.name] = column_of(series.name, series)
    return join_numbers(numbers, columns)


def _is_numeric(dtype: Any) -> bool:
    return bool(dtype.is_integer() or dtype.is_float())


def column_of(name: str, series: Any) -> Column:
    """Return the elements of a series (see `columns.column_of`)."""
    dtype = series.dtype
    has_nulls = series.null_count() > 0
    nulls = series.is_null().to_numpy() if has_nulls else None
    if dtype == pl.Null:
        return Column(None, np.ones(len(series), bool))
    if dtype.is_float() or isinstance(dtype, pl.Array):
        return Column(series.to_numpy())
    if dtype.is_integer() or dtype == pl.Boolean:
        filled = series.fill_null(False if dtype == pl.Boolean else 0) if has_nulls else series
        return Column(filled.to_numpy(), nulls)
    if isinstance(dtype, _TEXTS) or dtype == pl.Binary:
        blank: str | bytes = b"" if dtype == pl.Binary else ""
        values = np.empty(len(series), object)
        values[:] = [blank if each is None else each for each in series.to_list()]
        return Column(values, nulls)
    if dtype == pl.Date:
        series = series.cast(pl.Datetime("us"))
    elif isinstance(dtype, pl.Datetime) and dtype.time_zone:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    elif not isinstance(dtype, (pl.Datetime, pl.Duration)):
        raise refuse(name, f"type {dtype}")
    return Column(nanoseconds(name, series.to_numpy()))


def describe_column(name: str, parts: Sequence[Any]) -> ColumnRecord:
    """Return the description of a column, of which the parts are examples."""
    dtype = parts[0].dtype
    for part in parts:
        if part.dtype != dtype:
            raise InvalidInput(
                f"the examples have different types of column {name!r}: {dtype} and {part.dtype}"
            )
    if dtype == pl.Null:
        raise InvalidInput(
            f"column {name!r} of the example has only missing values; give one that has a value"
        )
    if isinstance(dtype, (pl.Array, pl.List, pl.Struct)):
        raise refuse(name, f"type {dtype}")
    categories: tuple[str, ...] = ()
    if isinstance(dtype, pl.Enum):
        categories = tuple(dtype.categories.to_list())
        if len(categories) > MAX_CATEGORIES:
            raise InvalidInput(
                f"column {name!r} has {len(categories)} categories; at most {MAX_CATEGORIES} travel: "
                "make it a column of texts"
            )
    # Every type of polars has missing values, so that numbers count as complete unless an example
    # says otherwise.
    is_incomplete = any(column_of(name, part).nulls is not None for part in parts)
    return ColumnRecord(
        name=name,
        dtype=_dtype_text(dtype),
        categories=categories,
        category_dtype="String" if isinstance(dtype, pl.Enum) else "",
        has_mask=is_incomplete or isinstance(dtype, _TEXTS) or dtype == pl.Binary,
    )


def _dtype_text(dtype: Any) -> str:
    name = str(dtype.base_type().__name__)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        return f"{name}[{dtype.time_unit}, {dtype.time_zone}]"
    if isinstance(dtype, (pl.Datetime, pl.Duration)):
        return f"{name}[{dtype.time_unit}]"
    return name


def _dtype_of(record: ColumnRecord) -> Any:
    found = _PARAMETERS.fullmatch(record.dtype)
    assert found is not None
    name: str = found[1]
    unit: Any = found[2]
    if name == "Enum":
        return pl.Enum(list(map(str, record.categories)))
    if name == "Datetime":
        return pl.Datetime(unit, found[3])
    return pl.Duration(unit) if name == "Duration" else getattr(pl, name)()


def make_builder(record: FrameRecord) -> "PolarsBuilder":
    """Return the builder of data frames of a description."""
    return PolarsBuilder(record)


class PolarsBuilder:
    """A builder of data frames of polars."""

    def __init__(self, record: FrameRecord) -> None:
        self._columns = [
            (column.name, mask_name(column.name) if column.has_mask else "", _dtype_of(column))
            for column in record.columns
        ]
        dtypes = {dtype for _, _, dtype in self._columns}
        is_numeric = len(dtypes) == 1 and _is_numeric(next(iter(dtypes)))
        self._numbers = {name: each for name, _, each in self._columns} if is_numeric else None

    def build(self, inputs: Mapping[str, Array]) -> Any:
        """Return a new data frame (see `columns.FrameBuilder`)."""
        return pl.DataFrame(
            [
                _series(name, inputs[name], inputs[mask] if mask else None, dtype)
                for name, mask, dtype in self._columns
            ]
        )

    def build_matrix(self, matrix: Array) -> Any:
        """Return a new data frame (see `columns.FrameBuilder`)."""
        if self._numbers is not None:
            return pl.DataFrame(matrix, self._numbers, orient="row", nan_to_null=True)
        columns = zip(self._columns, matrix.T, strict=True)
        return self.build({name: values for (name, _, _), values in columns})

    def first_row(self, frame: Any) -> Any:
        """Return the first row of a data frame."""
        return frame.row(0, named=True)


def _series(name: str, values: Array, nulls: Array | None, dtype: Any) -> Any:
    if values.dtype == object:
        elements = values.tolist()
        if isinstance(dtype, pl.Enum):
            known = set(dtype.categories)
            elements = [each if each in known else None for each in elements]
        series = pl.Series(name, elements, pl.Binary if dtype == pl.Binary else pl.String)
        series = series.cast(dtype)
    elif values.dtype.kind in "Mm":
        series = pl.Series(name, values)
        if isinstance(dtype, pl.Datetime) and dtype.time_zone:
            series = series.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)
        series = series.cast(dtype)
    else:
        series = pl.Series(name, values, nan_to_null=values.dtype.kind == "f")
        if series.dtype != dtype:
            series = series.cast(dtype)
    if nulls is not None and nulls.any():
        series = series.set(pl.Series(nulls), None)
    return series


def make_frame(columns: Mapping[str, Column]) -> Any:
    """Return a data frame of columns (see `columns.make_frame`)."""
    return pl.DataFrame([_series_of(name, column) for name, column in columns.items()])


def _series_of(name: str, column: Column) -> Any:
    values, nulls = column.values, column.nulls
    assert values is not None
    series = pl.Series(name, values.tolist() if values.dtype == object else values)
    return series if nulls is None else series.set(pl.Series(nulls), None)
