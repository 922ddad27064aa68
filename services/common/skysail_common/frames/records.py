"""The description of a data frame in a manifest, by which replicas rebuild the frames of queries."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Library = Literal["pandas", "polars"]
"""A library of data frames."""

Missing = Literal["", "None", "NaN", "NA"]
"""A missing value as an object of Python; empty if the type of the column decides."""

Category = bool | int | float | str
"""A category as JSON; a time is its nanoseconds."""


class ColumnRecord(BaseModel):
    """One column of a data frame."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    dtype: str
    """Type of the column in words of its library, such as `Int64` or `datetime64[us, Europe/Oslo]`;
    for categories `category`."""
    missing: Missing = ""
    """Value of a missing element of a column of objects; empty for any other column."""
    categories: tuple[Category, ...] = ()
    """All categories in order, of a categorical column."""
    category_dtype: str = ""
    """Type of the categories; empty if the column has none."""
    is_ordered: bool = False
    """True if the categories have an order."""
    has_mask: bool = False
    """True if the input `<name>.is_null` says which elements are missing."""


class FrameRecord(BaseModel):
    """The columns of the data frames that a function takes."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    library: Library
    columns: tuple[ColumnRecord, ...]
