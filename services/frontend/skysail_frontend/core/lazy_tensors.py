"""Inputs of a query whose data are not yet bytes of their own."""

from collections.abc import Callable
from dataclasses import dataclass

from skysail_common.tensors import DataType


@dataclass(frozen=True)
class LazyTensor:
    """An input whose data are converted after its shape is checked."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    num_elements: int
    """Number of elements of the data."""
    convert: Callable[[], bytes]
    """Returns the data.

    Raises:
        InvalidInput: an element does not fit the datatype.
    """


@dataclass(frozen=True)
class PartTensor:
    """An input whose data are a view of a large message."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    data: memoryview
