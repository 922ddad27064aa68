"""Columns of data frames as arrays, whatever the library of the frame."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.frames.nulls import NULL_MASK_SUFFIX, mask_name
from skysail_common.frames.records import ColumnRecord, FrameRecord, Library
from skysail_common.tensors import Array

MAX_CATEGORIES = 10_000
"""Most categories of a column, because the manifest lists them."""

LARGEST_EXACT = 2.0**53
"""Integers below this keep their value as floating-point numbers."""

FEW_ROWS = 16
"""Rows of a data frame that is converted as a whole, in less time than a look at each column takes;
in vain if not all of its columns are numbers."""

_LIBRARIES: tuple[Library, ...] = ("pandas", "polars")


Numbers = tuple[list[str], Array | None]
"""Columns of numbers: their names, and the elements [rows, columns]; None if there are none."""


@dataclass(frozen=True)
class Column:
    """The elements of a column."""

    values: Array | None
    """Numbers, truth values, texts, bytes, or times in nanoseconds; any value where one is missing.
    Missing numbers are NaN and missing times NaT. None if no element has a value and the type is
    unknown."""
    nulls: Array | None = None
    """True for each missing element without another sign; None if there are no such elements."""

    def arrays(self, name: str) -> dict[str, Array]:
        """Return the values and the mask by the names of their tensors, each only if needed."""
        arrays = {} if self.values is None else {name: self.values}
        if self.nulls is not None:
            arrays[mask_name(name)] = self.nulls
        return arrays

    def rows(self, part: slice) -> "Column":
        """Return some rows; their mask only if one of them is missing."""
        values = None if self.values is None else self.values[part]
        nulls = None if self.nulls is None else self.nulls[part]
        return Column(values, nulls if nulls is not None and nulls.any() else None)


class FrameBuilder(Protocol):
    """A builder of the data frames that a function takes."""

    def build(self, inputs: Mapping[str, Array]) -> Any:
        """Return a new data frame with these values and masks, by the names of the inputs."""

    def build_matrix(self, matrix: Array) -> Any:
        """Return a new data frame whose columns, all of one datatype, are those of a matrix.

        The matrix becomes a part of the data frame.
        """

    def first_row(self, frame: Any) -> Any:
        """Return the first row of a data frame, as users of the library know rows."""


class _Adapter(Protocol):
    """The module for one library."""

    def columns_of(self, frame: Any) -> dict[str, Column]: ...

    def column_of(self, name: str, series: Any) -> Column: ...

    def split_numbers(self, frame: Any) -> tuple[Numbers, dict[str, Column]]: ...

    def describe_column(self, name: str, parts: Sequence[Any]) -> ColumnRecord: ...

    def make_builder(self, record: FrameRecord) -> FrameBuilder: ...

    def make_frame(self, columns: Mapping[str, Column]) -> Any: ...


def library_of_frame(value: Any) -> Library | None:
    """Return the library of a data frame; None for any other value. It imports nothing."""
    return _library_of(value, "DataFrame")


def library_of_series(value: Any) -> Library | None:
    """Return the library of a series; None for any other value. It imports nothing."""
    return _library_of(value, "Series")


def _library_of(value: Any, name: str) -> Library | None:
    for cls in type(value).__mro__[:-1]:
        if cls.__name__ == name:
            package = cls.__module__.partition(".")[0]
            return next((library for library in _LIBRARIES if library == package), None)
    return None


def columns_of(frame: Any) -> dict[str, Column]:
    """Return the columns of a data frame by name; its index is left out.

    Raises:
        InvalidInput: a column has an unusable name or elements that no datatype holds.
    """
    return _adapter(library_of_frame(frame)).columns_of(frame)


def column_of(name: str, series: Any) -> Column:
    """Return the elements of a series.

    Raises:
        InvalidInput: no datatype holds the elements.
    """
    return _adapter(library_of_series(series)).column_of(name, series)


def split_numbers(frame: Any) -> tuple[Numbers, dict[str, Column]]:
    """Return the columns of numbers as one matrix, and the other columns by name.

    Integers beside fractions become floating-point numbers. If one of them would change, all columns
    are others.

    Raises:
        InvalidInput: see `columns_of`.
    """
    return _adapter(library_of_frame(frame)).split_numbers(frame)


def join_numbers(
    numbers: Mapping[str, Array], columns: Mapping[str, Column]
) -> tuple[Numbers, dict[str, Column]]:
    """Return numbers by name as one matrix beside other columns (see `split_numbers`)."""
    if numbers:
        matrix = np.column_stack(list(numbers.values()))
        if matrix.dtype.kind in "iuf" and not has_large_numbers(matrix):
            return (list(numbers), matrix), dict(columns)
    return ([], None), {**{name: Column(array) for name, array in numbers.items()}, **columns}


def has_large_numbers(matrix: Array) -> bool:
    """Return whether floating-point numbers may once have been other integers."""
    return matrix.dtype.kind == "f" and bool((np.abs(matrix) >= LARGEST_EXACT).any())


def describe_frames(frames: Sequence[Any]) -> FrameRecord:
    """Return the description of data frames of one library with the same columns.

    Raises:
        InvalidInput: the frames differ in library, columns or types, or a column is unusable.
    """
    library = library_of_frame(frames[0])
    assert library is not None
    columns = list(columns_of(frames[0]))
    for frame in frames[1:]:
        if library_of_frame(frame) != library:
            raise InvalidInput(f"the examples are not all data frames of {library}")
        if list(columns_of(frame)) != columns:
            raise InvalidInput(
                f"the examples have different columns: {columns} and {list(columns_of(frame))}"
            )
    adapter = _adapter(library)
    described = [
        adapter.describe_column(name, [frame[name] for frame in frames]) for name in columns
    ]
    taken = {column.name for column in described if column.has_mask}
    for name in columns:
        if name.removesuffix(NULL_MASK_SUFFIX) in taken and name.endswith(NULL_MASK_SUFFIX):
            raise InvalidInput(
                f"the name of column {name!r} is that of the mask of another; rename it"
            )
    return FrameRecord(library=library, columns=tuple(described))


def example_inputs(record: FrameRecord, frame: Any) -> dict[str, Array]:
    """Return the values and masks of an example, by the names of the inputs, in order."""
    inputs: dict[str, Array] = {}
    columns = columns_of(frame)
    for column in record.columns:
        found = columns[column.name]
        assert found.values is not None
        inputs[column.name] = found.values
        if column.has_mask:
            nulls = found.nulls
            inputs[mask_name(column.name)] = (
                np.zeros(len(found.values), bool) if nulls is None else nulls
            )
    return inputs


def make_builder(record: FrameRecord) -> FrameBuilder:
    """Return the builder of data frames of a description.

    Raises:
        FailedPrecondition: the library is not installed.
    """
    return _adapter(record.library).make_builder(record)


def make_frame(library: Library, columns: Mapping[str, Column]) -> Any:
    """Return a data frame of columns that all have values.

    An element with several numbers is an array in its cell.

    Raises:
        FailedPrecondition: the library is not installed.
    """
    return _adapter(library).make_frame(columns)


def _adapter(library: Library | None) -> _Adapter:
    assert library is not None
    try:
        import_module(library)
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"cannot make a data frame: {library} is not installed; add it to pkgs_to_install"
        ) from error
    return cast(_Adapter, import_module(f"skysail_common.frames.{library}_frames"))


def check_names(names: Iterable[Any]) -> list[str]:
    """Return the names of columns if they can be names of inputs.

    Raises:
        InvalidInput: a name is not a text, is empty, is not UTF-8, or occurs twice.
    """
    checked = list(names)
    distinct = set(checked)
    if set(map(type, checked)) != {str}:
        for name in checked:
            if not isinstance(name, str):
                raise InvalidInput(
                    f"column {name!r} has a name of type {type(name).__name__}; give names that are "
                    "texts, such as by frame.columns = frame.columns.map(str)"
                )
    if len(distinct) < len(checked):
        name = next(name for name in checked if checked.count(name) > 1)
        raise InvalidInput(f"two columns have the name {name!r}; rename one")
    if "" in distinct:
        raise InvalidInput("a column has an empty name; give it another")
    try:
        "".join(checked).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("the name of a column is not UTF-8; give it another") from error
    return checked


def refuse(
    name: str, what: str, fix: str = "convert it to numbers, texts or times"
) -> InvalidInput:
    """Return the error for a column that no datatype holds."""
    return InvalidInput(f"column {name!r} has {what}, which no datatype holds; {fix}")


def object_column(name: str, values: Array, nulls: "npt.NDArray[np.bool_]") -> Column:
    """Return a column of Python objects that are all texts, bytes, truth values or numbers.

    Raises:
        InvalidInput: the objects are of other types, or of several.
    """
    present = values[~nulls]
    kinds = {_kind(each) for each in present.tolist()}
    if not kinds:
        return Column(None, nulls)
    if kinds == {float, int}:
        kinds = {float}
    kind = next(iter(kinds))
    if len(kinds) > 1 or kind is None:
        types = sorted({type(each).__name__ for each in present.tolist()})
        raise refuse(name, f"objects of type {' and '.join(types)}")
    if kind is float:
        filled = np.full(len(values), np.nan)
        filled[~nulls] = present
        return Column(filled)
    filled = np.empty(len(values), object) if kind in (str, bytes) else np.zeros(len(values), kind)
    filled[nulls] = kind()
    try:
        filled[~nulls] = present
    except OverflowError as error:
        raise refuse(name, "an integer beyond INT64", "give floats") from error
    return Column(filled, nulls if nulls.any() else None)


def _kind(value: Any) -> type | None:
    for kinds, kind in _KINDS:
        if isinstance(value, kinds):
            return kind
    return None


_KINDS: tuple[tuple[tuple[type, ...], type], ...] = (
    ((str,), str),
    ((bytes,), bytes),
    ((bool, np.bool_), bool),
    ((int, np.integer), int),
    ((float, np.floating), float),
)
