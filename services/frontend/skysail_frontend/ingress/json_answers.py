"""Answers as JSON, written in time slices, because a large one would block the loop for seconds."""

import struct
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np
import orjson

from skysail_common.errors import ModelFailed
from skysail_common.tensors import Array, DataType, Tensor, from_numpy, to_numpy
from skysail_frontend.ingress.json_values import json_elements, json_row
from skysail_frontend.ingress.time_slice import TimeSlice, join

_MAX_ELEMENTS_AT_ONCE = 8192
"""Number of elements that are written at once, in about a millisecond."""

_length_at = struct.Struct("<I").unpack_from


def json_text(value: Any) -> bytes:
    """Return a value as JSON; numpy arrays become lists, NaN becomes null.

    Raises:
        ModelFailed: JSON cannot represent the value.
    """
    try:
        return orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise ModelFailed(f"cannot write the answer as JSON: {error}") from error


def _plain(value: Any) -> Any:
    # orjson writes only arrays of numbers by itself.
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")


async def elements_text(tensor: Tensor, time_slice: TimeSlice) -> bytes:
    """Return all elements of a tensor as one JSON array, without its shape.

    Raises:
        ModelFailed: JSON cannot represent an element.
    """

    def write(part: Array) -> bytes:
        # The list holds doubles, so that numbers of FP32 are written in full.
        return json_text(part.tolist())

    if prod(tensor.shape) <= _MAX_ELEMENTS_AT_ONCE:
        return write(json_elements(tensor).ravel())
    if tensor.datatype is not DataType.BYTES:
        return await _array_text(
            to_numpy(tensor).ravel(), time_slice, lambda part: write(_named(part))
        )
    parts = []
    for part in _parts(tensor):
        parts.append(write(json_elements(part))[1:-1])
        await time_slice.yield_if_over()
    return await join([b"[", await join(parts, b","), b"]"])


async def row_text(tensor: Tensor, time_slice: TimeSlice) -> bytes:
    """Return the first row of a tensor as JSON, in its shape.

    Raises:
        ModelFailed: JSON cannot represent an element.
    """
    if prod(tensor.shape) <= _MAX_ELEMENTS_AT_ONCE:
        return json_text(json_row(tensor))
    if tensor.datatype is DataType.BYTES:
        if len(tensor.shape) == 2:
            return await elements_text(tensor, time_slice)
        return await _array_text(json_elements(tensor)[0], time_slice, json_text)
    return await _array_text(to_numpy(tensor)[0], time_slice, lambda part: json_text(_named(part)))


def _named(part: Array) -> Array:
    """Return numbers with names in place of infinities, which JSON lacks."""
    return json_elements(from_numpy("", part))


async def _array_text(
    array: Array, time_slice: TimeSlice, write: Callable[[Array], bytes]
) -> bytes:
    if array.size <= _MAX_ELEMENTS_AT_ONCE:
        return write(array)
    row_size = array.size // len(array)
    is_long = row_size > _MAX_ELEMENTS_AT_ONCE
    step = 1 if is_long else _MAX_ELEMENTS_AT_ONCE // row_size
    parts = []
    for begin in range(0, len(array), step):
        if is_long:
            parts.append(await _array_text(array[begin], time_slice, write))
        else:
            parts.append(write(array[begin : begin + step])[1:-1])
        await time_slice.yield_if_over()
    return await join([b"[", await join(parts, b","), b"]"])


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Split a BYTES tensor into parts with one axis."""
    data = tensor.data
    begin = position = count = 0
    while position < len(data):
        position += 4 + int(_length_at(data, position)[0])
        count += 1
        if count == _MAX_ELEMENTS_AT_ONCE or position >= len(data):
            part = data[begin:position]
            yield Tensor(tensor.name, tensor.datatype, (count,), part, tensor.content)
            begin, count = position, 0
