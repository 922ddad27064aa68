"""Conversion of JSON values to tensors and of tensors to JSON values."""

import base64
import json
import math
import re
from itertools import takewhile
from typing import Any

import numpy as np
import orjson

from skysail_common.errors import InvalidInput
from skysail_common.frames.nulls import mask_name
from skysail_common.tensor_conversions import narrowed
from skysail_common.tensors import (
    Array,
    Content,
    DataType,
    Tensor,
    TensorSpec,
    from_numpy,
    to_numpy,
)
from skysail_common.times import MISSING_TIME, nanoseconds_of_text, text_of_time

_MAX_SHOWN = 60
"""Largest number of characters of a value in an error."""

_KINDS: dict[str, tuple[str, set[type]]] = {
    "b": ("truth values", {bool}),
    "i": ("integers", {int}),
    "u": ("integers", {int}),
    "f": ("numbers", {int, float, type(None)}),
}

_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}
"""Names of the infinities, which JSON lacks, as in the JSON of Protocol Buffers."""
_INFINITIES = {name: number for number, name in _NAMES.items()}

_PYTHON_NAMES = re.compile(rb'("(?:[^"\\]|\\.)*"?)|\bNaN\b|(-?\bInfinity\b)', re.DOTALL)
"""Strings, and the names of NaN and infinities that `json.dumps` of Python writes by default.

An unterminated string matches too, because a search for its end from each quote would take quadratic
time.
"""
_MAX_NAMED_BYTES = 32 * 1024
"""Longest text that is searched for those names, which takes at most 15 ms."""


def parsed(text: bytes | bytearray | memoryview) -> Any:
    """Return the value of a JSON text.

    Raises:
        InvalidInput: the text is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        named = _PYTHON_NAMES.sub(_in_json, text) if len(text) <= _MAX_NAMED_BYTES else text
        if named == text:
            raise InvalidInput(f"Error parsing JSON: {error}") from error
    return parsed(named)


def _in_json(found: re.Match[bytes]) -> bytes:
    """Return the JSON for a name of Python; a string stays unchanged."""
    text, infinity = found.groups()
    return text or (b'"%b"' % infinity if infinity else b"null")


def array_of_json(
    name: str, value: Any, datatype: DataType, begin: tuple[int, ...] = (0,)
) -> Array:
    """Return a JSON value as an array of a datatype.

    A floating-point type accepts integers, which are rounded. It accepts null for NaN, and the texts
    "Infinity" and "-Infinity" for the infinities.

    Args:
        name: Name of the input, for messages.
        value: Parsed JSON.
        datatype: Type of the elements.
        begin: Index of the first element of `value` in the caller's JSON; empty if that JSON lacks
            the first axis.

    Raises:
        InvalidInput: an element has a wrong type, rows differ in length, or a number does not fit.
    """
    # The array holds objects first. By default numpy converts large integers to floating-point
    # numbers and truth values to integers, and pads each text to the length of the longest.
    array: Array = np.array(value, dtype=object)
    if datatype is DataType.BYTES:
        for each in array.ravel().tolist():
            if not isinstance(each, str):
                is_whole = _is_whole(_shown(value), begin)
                place = "" if is_whole else _place(array, {str}, begin)
                raise InvalidInput(f"input {name!r} takes texts, got {_shown(each)}{place}")
        return array
    what, accepted = _KINDS[datatype.dtype.kind]
    found = set(map(type, array.ravel().tolist()))
    if str in found and datatype.dtype.kind == "f":
        array = _with_infinities(array)
        found = set(map(type, array.ravel().tolist()))
    if list in found:
        raise InvalidInput(f"input {name!r} has rows of different lengths")
    if not found <= accepted:
        hint = "; only floating-point numbers may be null" if type(None) in found else ""
        got = _shown(value)
        if not _is_whole(got, begin):
            # The beginning of a long value rarely includes the wrong element.
            got = f"{_shown(_first_other(array, accepted)[1])}{_place(array, accepted, begin)}"
        raise InvalidInput(f"input {name!r} takes {what}, got {got}{hint}")
    if datatype.dtype.kind == "f":
        array = _with_fractions(array)
    return narrowed(name, array, datatype)


def _is_whole(text: str, begin: tuple[int, ...]) -> bool:
    """Return whether a text shows the caller's complete value."""
    return not (text.endswith("…") or any(begin))


def _first_other(array: Array, accepted: set[type]) -> tuple[int, Any]:
    """Return the first element of another type, and its index in the flat array."""
    flat = enumerate(array.ravel().tolist())
    return next((index, each) for index, each in flat if type(each) not in accepted)


def _place(array: Array, accepted: set[type], begin: tuple[int, ...]) -> str:
    """Return the place of the first element of another type, such as ` at [2][7]`."""
    if not array.ndim:
        return ""
    flat, _ = _first_other(array, accepted)
    first, *others = (int(each) for each in np.unravel_index(flat, array.shape))
    index = (*begin[:-1], begin[-1] + first, *others) if begin else others
    return f" at {''.join(f'[{each}]' for each in index)}" if index else ""


def _with_fractions(array: Array) -> Array:
    """Return JSON numbers as floating-point numbers, because some writers omit the fraction `.0`."""
    try:
        return array.astype("<f8")
    except OverflowError:
        # An integer beyond FP64 stays an integer, which the caller of this function refuses.
        return array


def _with_infinities(array: Array) -> Array:
    elements = [
        _INFINITIES.get(each, each) if isinstance(each, str) else each
        for each in array.ravel().tolist()
    ]
    result = np.empty(len(elements), dtype=object)
    result[:] = elements
    return result.reshape(array.shape)


def _shown(value: Any) -> str:
    """Return the beginning of a value as JSON, without reading the rest."""
    text = orjson.dumps(_beginning(value, [_MAX_SHOWN]), lambda _: "…").decode()
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _beginning(value: Any, room: list[int]) -> Any:
    """Copy the beginning of a value, up to the end of the remaining room for characters."""
    room[0] -= 1
    if isinstance(value, str):
        return value[: _MAX_SHOWN + 1]
    if isinstance(value, list):
        return [_beginning(each, room) for each in takewhile(lambda _: room[0] >= 0, value)]
    if isinstance(value, dict):
        items = takewhile(lambda _: room[0] >= 0, value.items())
        return {key[: _MAX_SHOWN + 1]: _beginning(each, room) for key, each in items}
    return value


def row_of_json(spec: TensorSpec, value: Any) -> Tensor:
    """Return one input, whose JSON lacks the batch axis, as a tensor with one row.

    Raises:
        InvalidInput: the value does not match the specification.
    """
    if spec.datatype is DataType.BYTES and spec.content is Content.BINARY:
        value = _decoded(spec.name, value)
        array: Array = np.empty(1, dtype=object)
        array[0] = value
        return from_numpy(spec.name, array)
    if spec.content is Content.DATETIME and isinstance(value, str):
        value = nanoseconds_of_text(spec.name, value)
    elif spec.content.dtype and value is None:
        value = MISSING_TIME
    array = array_of_json(spec.name, [value], spec.datatype, begin=())
    if array.ndim != len(spec.shape):
        raise InvalidInput(
            f"input {spec.name!r} takes a value with {len(spec.shape) - 1} dimensions, got "
            f"{_shown(value)}"
        )
    if spec.datatype is DataType.BF16:
        raise InvalidInput(f"input {spec.name!r} of datatype BF16 cannot be sent as JSON")
    return from_numpy(spec.name, array)


def null_row(name: str) -> Tensor:
    """Return the mask of an input whose only element is missing."""
    return from_numpy(mask_name(name), np.ones(1, bool), Content.NULL_MASK)


def _decoded(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise InvalidInput(f"input {name!r} takes bytes as a base64 text, got {_shown(value)}")
    return base64_bytes(name, value)


def base64_bytes(name: str, text: str | bytes) -> bytes:
    """Return the bytes of an input from a base64 text.

    Raises:
        InvalidInput: the text is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidInput(f"input {name!r} is not base64: {error}") from error


def json_elements(tensor: Tensor) -> Array:
    """Return the elements of a tensor as an array for JSON.

    Text stays text; bytes that are not UTF-8 become base64. Infinities become names. NaN stays, and
    the JSON writer makes it null. Times stay integers.
    """
    array = to_numpy(tensor)
    if tensor.content.dtype:
        return array.view(tensor.datatype.dtype)
    if tensor.datatype is not DataType.BYTES and not _has_infinities(array):
        return array
    elements = [_json_element(tensor.content, each) for each in array.ravel().tolist()]
    result = np.empty(len(elements), dtype=object)
    result[:] = elements
    return result.reshape(array.shape)


def json_row(tensor: Tensor) -> Any:
    """Return the first row of a tensor for JSON; points in time are texts, a missing time is None."""
    if tensor.content.dtype is None:
        return json_elements(tensor)[0]
    times = to_numpy(tensor)[0]
    texts = [text_of_time(each) for each in times.ravel()]
    return texts[0] if times.ndim == 0 else np.array(texts, object).reshape(times.shape)


def _has_infinities(array: Array) -> bool:
    return array.dtype.kind == "f" and bool(np.isinf(array).any())


def _json_element(content: Content, element: Any) -> Any:
    if isinstance(element, bytes):
        try:
            return element.decode()
        except UnicodeDecodeError:
            return base64.b64encode(element).decode()
    if isinstance(element, float):
        return _NAMES.get(element, element)
    return _json_or_text(element) if content is Content.JSON_OR_TEXT else element


def _json_or_text(element: str) -> Any:
    """Return the JSON form of an element that is a JSON value or a text."""
    try:
        orjson.loads(element)
    except orjson.JSONDecodeError:
        if not any(name in element for name in ("NaN", "Infinity")):
            return element
    else:
        # The text is copied, because orjson would round integers of more than 64 bits.
        return orjson.Fragment(element)
    try:
        # The element may contain Python's names for NaN and infinities.
        return json.loads(element, parse_constant=lambda name: None if name == "NaN" else name)
    except (ValueError, RecursionError):
        return element
