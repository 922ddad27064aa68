"""Inputs of a query as tensors: one input, rows with names, or data frames."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.frames.columns import (
    Column,
    Numbers,
    check_names,
    library_of_frame,
    library_of_series,
    object_column,
    split_numbers,
)
from skysail_common.frames.nulls import NULL_MASK_SUFFIX, mask_name
from skysail_common.frames.records import Library
from skysail_common.model_functions import as_array
from skysail_common.rpc.messages import tensor_to_proto
from skysail_common.tensors import Array, Content, Tensor, from_numpy
from skysail_protos.v1 import tensors_pb2

_NULL: Array = np.ones(1, bool)


@dataclass(frozen=True)
class QueryInputs:
    """The inputs of one query."""

    tensors: Sequence[tensors_pb2.Tensor]
    columns: Sequence[str] = ()
    """Names of the columns of the first tensor; empty if its name is enough."""
    num_rows: int | None = None
    """Rows of a data frame or of a list of rows; None for one input."""
    library: Library = "pandas"
    """Library of the data frame."""


def read_inputs(value: Any) -> QueryInputs:
    """Return the inputs of one query from the value that a user gives.

    Args:
        value: A number, text, bytes, time, list or array; a row, which is a dictionary by name or a
            series with names; or many rows, which are a list of dictionaries or a data frame.

    Raises:
        InvalidInput: the value is not convertible to tensors.
    """
    if isinstance(value, QueryInputs):
        return value
    library = library_of_frame(value)
    if library is not None:
        return _of_columns(library, *_frame_parts(value), len(value))
    if isinstance(value, Mapping):
        return QueryInputs(_named_tensors(value))
    if library_of_series(value) == "pandas" and _are_texts(value.index):
        labels = check_names(value.index.tolist())
        if getattr(value.dtype, "kind", "") in "iuf" and isinstance(value.dtype, np.dtype):
            matrix = value.to_numpy()[np.newaxis, :]
            return QueryInputs([_proto("", matrix)], labels)
        return QueryInputs(_named_tensors(dict(zip(labels, value.tolist(), strict=True))))
    if isinstance(value, Sequence) and value and all(isinstance(row, Mapping) for row in value):
        columns = _columns_of_rows(value)
        return _of_columns("pandas", ([], None), columns, len(value))
    return QueryInputs([tensor_to_proto(_row("", value))])


def split_rows(inputs: Any) -> Iterable[Any]:
    """Return an iterable of the inputs, which for a data frame are its rows.

    Raises:
        InvalidInput: the value is a single input, or is not iterable.
    """
    if library_of_frame(inputs):
        return _frame_rows(inputs)
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Iterable):
        raise InvalidInput(
            f"inputs must be a list of inputs, got a {type(inputs).__name__}; for one input use "
            "predict"
        )
    return inputs


def _frame_parts(frame: Any) -> tuple[Numbers, dict[str, Column]]:
    """Return the columns of a data frame: the numbers as a matrix, the others by name."""
    if not len(frame):
        raise InvalidInput("the data frame has no row; give at least one")
    labels = frame.columns
    labels = labels.tolist() if hasattr(labels, "tolist") else labels
    if not any(isinstance(label, str) for label in labels):
        matrix = frame.to_numpy()
        # Labels that are numbers are those of an array, for a model that takes one.
        if matrix.dtype.kind in "biuf":
            return ([], matrix), {}
    return split_numbers(frame)


def _frame_rows(frame: Any) -> Iterator[QueryInputs]:
    library = library_of_frame(frame)
    assert library is not None
    if not len(frame):
        return
    (names, matrix), columns = _frame_parts(frame)
    for index in range(len(frame)):
        part = slice(index, index + 1)
        row = (names, None if matrix is None else matrix[part])
        inputs = _of_columns(library, row, {key: each.rows(part) for key, each in columns.items()})
        yield inputs


def _of_columns(
    library: Library, matrix: Numbers, columns: Mapping[str, Column], num_rows: int | None = None
) -> QueryInputs:
    names, numbers = matrix
    tensors = [] if numbers is None else [_proto("", numbers)]
    for name, column in columns.items():
        for part, array in column.arrays(name).items():
            is_mask = array is column.nulls
            tensors.append(_proto(part, array, Content.NULL_MASK if is_mask else None))
    return QueryInputs(tensors, names, num_rows, library)


def _columns_of_rows(rows: Sequence[Mapping[Any, Any]]) -> dict[str, Column]:
    names = check_names(rows[0])
    known = set(names)
    for index, row in enumerate(rows):
        if row.keys() != known:
            odd = sorted(map(str, row.keys() ^ known))
            raise InvalidInput(
                f"row {index} differs from row 0 in {', '.join(map(repr, odd[:10]))}; give each row "
                "the same names, with None for a missing value"
            )
    return {name: _column_of_values(name, [row[name] for row in rows]) for name in names}


def _column_of_values(name: str, values: Sequence[Any]) -> Column:
    nulls = np.array([_is_missing(value) for value in values])
    present = [_plain(value) for value, is_null in zip(values, nulls, strict=True) if not is_null]
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in present):
        return Column(_array(name, values))
    if present and all(isinstance(value, (np.datetime64, np.timedelta64)) for value in present):
        kind = "M8[ns]" if isinstance(present[0], np.datetime64) else "m8[ns]"
        times = np.full(len(values), "NaT", kind)
        times[~nulls] = present
        return Column(times)
    objects = np.empty(len(values), object)
    objects[~nulls] = present
    return object_column(name, objects, nulls)


def _named_tensors(row: Mapping[Any, Any]) -> list[tensors_pb2.Tensor]:
    for name in row:
        if not isinstance(name, str):
            raise InvalidInput(
                f"the input is a dictionary, whose keys must be names of inputs, got {name!r}"
            )
    return [
        _proto(mask_name(name), _NULL, Content.NULL_MASK)
        if _is_missing(value) and not name.endswith(NULL_MASK_SUFFIX)
        else tensor_to_proto(_row(name, value))
        for name, value in row.items()
    ]


def _row(name: str, value: Any) -> Tensor:
    # Messages call an unnamed input `input`.
    shown = name or "input"
    value = _plain(value)
    if isinstance(value, (str, bytes)):
        rows: Array = np.empty(1, dtype=object)
        rows[0] = value
    else:
        rows = _array(shown, value)[np.newaxis, ...]
    return replace(from_numpy(shown, rows), name=name)


def _array(name: str, value: Any) -> Array:
    try:
        return as_array(name, value, takes_missing=True)
    except ModelFailed as error:
        raise InvalidInput(f"the input is not usable: {error.message}") from error


def _plain(value: Any) -> Any:
    """Return a time or date of Python or pandas as a time of numpy, in UTC; others unchanged."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            value = value.astimezone(timezone.utc).replace(tzinfo=None)
        # A time of pandas has nanoseconds.
        exact = getattr(value, "to_datetime64", None)
        return exact() if exact is not None else np.datetime64(value)
    if isinstance(value, date):
        return np.datetime64(value)
    if isinstance(value, timedelta):
        exact = getattr(value, "to_timedelta64", None)
        return exact() if exact is not None else np.timedelta64(value)
    return value


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, np.floating, np.datetime64, np.timedelta64)) and value != value


def _are_texts(labels: Iterable[Any]) -> bool:
    return all(isinstance(label, str) for label in labels)


def _proto(name: str, array: Array, content: Content | None = None) -> tensors_pb2.Tensor:
    return tensor_to_proto(from_numpy(name, array, content))
