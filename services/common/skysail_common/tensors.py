"""Tensors as bytes: element types, specifications, and conversion from and to numpy.

The layout is that of the Open Inference Protocol: row-major and little-endian. An element of BYTES
is its length as uint32, followed by its bytes. The first axis is the batch axis.
"""

import enum
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from skysail_common.errors import InvalidInput
from skysail_common.frames.grouping import groups_of
from skysail_common.times import NANOSECONDS, nanoseconds

Array = npt.NDArray[np.generic]

Data: TypeAlias = bytes | memoryview
"""Data of a tensor, or the part of a message with them."""


class DataType(enum.IntEnum):
    """Element type of a tensor; numbers equal those of `skysail.v1.DataType`."""

    BOOL = 1
    UINT8 = 2
    UINT16 = 3
    UINT32 = 4
    UINT64 = 5
    INT8 = 6
    INT16 = 7
    INT32 = 8
    INT64 = 9
    FP16 = 10
    FP32 = 11
    FP64 = 12
    BYTES = 13
    BF16 = 14

    @property
    def element_bytes(self) -> int:
        """Bytes of one element; 0 for BYTES, whose elements differ in length."""
        return _ELEMENT_BYTES[self]

    @classmethod
    def named(cls, name: str) -> "DataType":
        """Return the type of this name, such as `FP32`.

        Raises:
            InvalidInput: no type has this name.
        """
        found = _BY_NAME.get(name)
        if found is None:
            raise InvalidInput(f"{name[:40]!r} is not a datatype; known are {', '.join(_BY_NAME)}")
        return found

    @classmethod
    def of(cls, dtype: "np.dtype[np.generic]") -> "DataType":
        """Return the type that holds elements of a numpy type.

        Raises:
            InvalidInput: no type does, such as for complex numbers or dates.
        """
        if dtype.kind in "OSUT":
            return cls.BYTES
        found = _BY_DTYPE.get(dtype.newbyteorder("="))
        if found is None:
            raise InvalidInput(f"numpy type {dtype} has no datatype in the protocol")
        return found

    @property
    def dtype(self) -> "np.dtype[np.generic]":
        """The numpy type of the elements; float32 for BF16, because numpy lacks that type."""
        return _DTYPES[self]


_DTYPES: dict[DataType, "np.dtype[np.generic]"] = {
    DataType.BOOL: np.dtype("?"),
    DataType.UINT8: np.dtype("u1"),
    DataType.UINT16: np.dtype("<u2"),
    DataType.UINT32: np.dtype("<u4"),
    DataType.UINT64: np.dtype("<u8"),
    DataType.INT8: np.dtype("i1"),
    DataType.INT16: np.dtype("<i2"),
    DataType.INT32: np.dtype("<i4"),
    DataType.INT64: np.dtype("<i8"),
    DataType.FP16: np.dtype("<f2"),
    DataType.FP32: np.dtype("<f4"),
    DataType.FP64: np.dtype("<f8"),
    DataType.BYTES: np.dtype(object),
    DataType.BF16: np.dtype("<f4"),
}
_BY_NAME = {datatype.name: datatype for datatype in DataType}
_BY_DTYPE = {
    dtype: datatype
    for datatype, dtype in _DTYPES.items()
    if datatype not in (DataType.BYTES, DataType.BF16)
}
_ELEMENT_BYTES = {datatype: _DTYPES[datatype].itemsize for datatype in DataType}
_ELEMENT_BYTES[DataType.BYTES] = 0
_ELEMENT_BYTES[DataType.BF16] = 2


class Content(enum.IntEnum):
    """Content of the elements of a tensor; numbers equal those of `skysail.v1.Content`."""

    BINARY = 0
    """Numbers, or the bytes of a BYTES tensor."""
    TEXT = 1
    JSON_OR_TEXT = 2
    """JSON values and texts, in the encoding of `json_or_text`; texts of an input need no quotes."""
    DATETIME = 3
    """INT64: nanoseconds since 1970-01-01 in UTC; the smallest integer for a missing one."""
    DURATION = 4
    """INT64: nanoseconds; the smallest integer for a missing one."""
    NULL_MASK = 5
    """BOOL: the missing elements of the tensor whose name is the beginning of the mask's name."""

    @property
    def dtype(self) -> "np.dtype[np.generic] | None":
        """The numpy type of times; None for another content."""
        return _TIMES.get(self)


_CONTENT_OF_KIND = {"M": Content.DATETIME, "m": Content.DURATION}
_TIMES = {content: NANOSECONDS[kind] for kind, content in _CONTENT_OF_KIND.items()}


class InputType(enum.IntEnum):
    """Input type of an application or a model; numbers equal those of `skysail.v1.InputType`."""

    TENSORS = 1
    INTEGERS = 2
    FLOATS = 3
    DOUBLES = 4
    BYTES = 5
    STRINGS = 6

    @classmethod
    def named(cls, name: str) -> "InputType":
        """Return the type of this name, such as `doubles`.

        Raises:
            InvalidInput: no type has this name.
        """
        for input_type in cls:
            if input_type.name.lower() == name:
                return input_type
        known = ", ".join(input_type.name.lower() for input_type in cls)
        raise InvalidInput(f"{name[:40]!r} is not an input type; known are {known}")


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of one input or output."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    """Size of each axis, -1 if it varies; the first is the batch axis and always -1."""
    content: Content = Content.BINARY

    variable_axes: tuple[int, ...] = field(init=False, repr=False)
    """Axes after the first whose size varies."""
    row_bytes: int | None = field(init=False, repr=False)
    """Bytes of one row; None if rows differ in size."""
    dtype: "np.dtype[np.generic]" = field(init=False, repr=False, compare=False)
    """The numpy type of the elements."""

    def __post_init__(self) -> None:
        if not self.shape or self.shape[0] != -1:
            raise InvalidInput(f"tensor {self.name!r} must have a batch axis of size -1 first")
        if any(size < 1 and size != -1 for size in self.shape):
            raise InvalidInput(f"tensor {self.name!r} has an impossible shape {list(self.shape)}")
        axes = tuple(axis for axis, size in enumerate(self.shape) if axis and size == -1)
        is_fixed = not axes and self.datatype is not DataType.BYTES
        row_bytes = math.prod(self.shape[1:]) * self.datatype.element_bytes if is_fixed else None
        object.__setattr__(self, "variable_axes", axes)
        object.__setattr__(self, "row_bytes", row_bytes)
        object.__setattr__(self, "dtype", self.content.dtype or self.datatype.dtype)


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model version, in the order of its function.

    Inputs or outputs are empty until the first replica of the version has learned them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    frame: str = ""
    """Library of the data frames whose columns are the inputs, `pandas` or `polars`; empty if the
    inputs are not columns of a data frame."""
    has_fixed_outputs: bool = field(init=False, repr=False, compare=False)
    """True if the number of rows determines the size of each output."""
    groups: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    """Indices of the inputs that travel together: columns of one type, and any other alone."""
    packed_inputs: tuple[TensorSpec, ...] = field(init=False, repr=False, compare=False)
    """Specification of each group: a matrix [batch, columns], or the input itself."""

    def __post_init__(self) -> None:
        is_fixed = all(spec.row_bytes is not None for spec in self.outputs)
        object.__setattr__(self, "has_fixed_outputs", is_fixed)
        groups = groups_of(
            [
                (spec.datatype, spec.content) if self.frame and spec.row_bytes else index
                for index, spec in enumerate(self.inputs)
            ]
        )
        object.__setattr__(self, "groups", groups)
        packed = tuple(_packed([self.inputs[index] for index in group]) for group in groups)
        object.__setattr__(self, "packed_inputs", packed)
        for kind, specs in (("input", self.inputs), ("output", self.outputs)):
            names = [spec.name for spec in specs]
            if len(set(names)) < len(names):
                raise InvalidInput(f"two {kind}s of the signature have the same name: {names}")

    @property
    def is_known(self) -> bool:
        """False if the first replica has yet to learn inputs or outputs."""
        return bool(self.inputs and self.outputs)

    @property
    def input_type(self) -> InputType:
        """The input type that an application needs for a route to this version."""
        if len(self.inputs) == 1 and not self.frame:
            spec = self.inputs[0]
            if spec.datatype is DataType.BYTES and len(spec.shape) == 1:
                return InputType.STRINGS if spec.content else InputType.BYTES
            if len(spec.shape) == 2:
                return _LIST_TYPES.get(spec.datatype, InputType.TENSORS)
        return InputType.TENSORS


def _packed(specs: Sequence[TensorSpec]) -> TensorSpec:
    if len(specs) == 1:
        return specs[0]
    return TensorSpec("columns", specs[0].datatype, (-1, len(specs)), specs[0].content)


_LIST_TYPES = {
    DataType.INT32: InputType.INTEGERS,
    DataType.INT64: InputType.INTEGERS,
    DataType.FP32: InputType.FLOATS,
    DataType.FP64: InputType.DOUBLES,
}

CLIPPER_SPECS: dict[InputType, TensorSpec] = {
    InputType.INTEGERS: TensorSpec("input", DataType.INT32, (-1, -1)),
    InputType.FLOATS: TensorSpec("input", DataType.FP32, (-1, -1)),
    InputType.DOUBLES: TensorSpec("input", DataType.FP64, (-1, -1)),
    InputType.BYTES: TensorSpec("input", DataType.BYTES, (-1,), Content.BINARY),
    InputType.STRINGS: TensorSpec("input", DataType.BYTES, (-1,), Content.TEXT),
}
"""Inputs of functions that take a list of such values, as in Clipper."""


@dataclass(frozen=True)
class Tensor:
    """One tensor with its data."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    data: bytes
    content: Content = Content.BINARY


def join_bytes_elements(elements: Iterable[Data]) -> bytes:
    """Return the data of a BYTES tensor with these elements."""
    parts: list[Data] = []
    for element in elements:
        parts.append(len(element).to_bytes(4, "little"))
        parts.append(element)
    return b"".join(parts)


def split_bytes_elements(data: bytes, num_elements: int) -> list[bytes]:
    """Return the elements of a BYTES tensor.

    Raises:
        InvalidInput: the number of elements differs, or the data end inside an element.
    """
    elements: list[bytes] = []
    position, end = 0, len(data)
    while position < end:
        if position + 4 > end:
            raise InvalidInput(
                f"incomplete string length: expecting 4 bytes but only {end - position} available"
            )
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        if position + length > end:
            raise InvalidInput(
                f"incomplete string data: expecting string of length {length} but only "
                f"{end - position} bytes available"
            )
        elements.append(data[position : position + length])
        position += length
        if len(elements) > num_elements:
            break
    if len(elements) != num_elements:
        got = "more" if len(elements) > num_elements else str(len(elements))
        raise InvalidInput(f"expected {num_elements} string elements, got {got}")
    return elements


def to_numpy(tensor: Tensor) -> Array:
    """Return the elements of a tensor as an array; texts become `str`, times those of numpy.

    Raises:
        InvalidInput: the data do not fill the shape, or a text is not UTF-8.
    """
    elements = _elements(tensor)
    try:
        return elements.reshape(tensor.shape)
    except (ValueError, OverflowError) as error:
        # Sizes may be negative or too large for an array although their product fits the data.
        raise InvalidInput(
            f"tensor {tensor.name!r} has an impossible shape {list(tensor.shape)}"
        ) from error


def _elements(tensor: Tensor) -> Array:
    count = math.prod(tensor.shape)
    if tensor.datatype is DataType.BYTES:
        elements = split_bytes_elements(tensor.data, count)
        array = np.empty(count, dtype=object)
        array[:] = elements if tensor.content is Content.BINARY else _decode(tensor.name, elements)
        return array
    if len(tensor.data) != count * tensor.datatype.element_bytes:
        raise InvalidInput(
            f"tensor {tensor.name!r} of shape {list(tensor.shape)} needs "
            f"{count * tensor.datatype.element_bytes} bytes, got {len(tensor.data)}"
        )
    if tensor.datatype is DataType.BF16:
        # BF16 is the upper half of FP32.
        bits = np.left_shift(np.frombuffer(tensor.data, "<u2").astype("<u4"), 16)
        floats: Array = bits.view("<f4")
        return floats
    return np.frombuffer(tensor.data, tensor.content.dtype or tensor.datatype.dtype)


def _decode(name: str, elements: Sequence[bytes]) -> list[str]:
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"tensor {name!r} is not UTF-8 text: {error.reason}") from error


def from_numpy(name: str, array: Array, content: Content | None = None) -> Tensor:
    """Return a tensor with the elements of an array.

    Args:
        name: Name of the tensor.
        array: The elements; those of an object array must be `str` or `bytes`.
        content: Content of the elements; None means text if one of them is a `str`.

    Raises:
        InvalidInput: no datatype can hold the elements.
    """
    if array.dtype.kind in _CONTENT_OF_KIND:
        content = _CONTENT_OF_KIND[array.dtype.kind]
        array = nanoseconds(name, array).view("<i8")
    datatype = DataType.of(array.dtype)
    if datatype is not DataType.BYTES:
        contiguous = np.ascontiguousarray(array, dtype=datatype.dtype)
        return Tensor(name, datatype, array.shape, contiguous.tobytes(), content or Content.BINARY)
    elements: list[bytes] = []
    is_text = False
    for element in array.ravel().tolist():
        if isinstance(element, str):
            is_text = True
            elements.append(_encode(name, element))
        elif isinstance(element, bytes):
            elements.append(element)
        else:
            raise InvalidInput(
                f"tensor {name!r} has an element of type {type(element).__name__}; "
                "an array of objects may hold only str or bytes"
            )
    if content is None:
        content = Content.TEXT if is_text else Content.BINARY
    return Tensor(name, datatype, array.shape, join_bytes_elements(elements), content)


def _encode(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        # JSON can contain half a surrogate pair.
        raise InvalidInput(
            f"tensor {name!r} has a text that is not UTF-8: {error.reason}"
        ) from error
