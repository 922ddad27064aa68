"""JSON texts of any length, parsed in time slices, because orjson blocks the loop while it parses.

A long text is split at its long arrays and strings. Each of them is parsed on demand and in parts, so
that unknown members cost only a scan of their bytes. The rest, the outline, is parsed at once and has
a size limit.

    {"inputs": [{"name": "x", "data": LongArray}]}      LongArray.slices() ─► [1, 2, …], [3, …]
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson

from skysail_common.errors import InvalidInput
from skysail_common.tensors import Array, DataType, Tensor, from_numpy
from skysail_frontend.ingress.json_values import array_of_json, parsed
from skysail_frontend.ingress.long_texts import LongText, element_of
from skysail_frontend.ingress.time_slice import TimeSlice, join

LONG_BYTES = 32 * 1024
"""Longest text that is parsed at once, which takes at most 4 ms."""

_MAX_VALUES = 50_000
"""Largest number of values in an outline."""
_MAX_OUTLINE_BYTES = 1024 * 1024
"""Largest outline."""

_STEP = np.zeros(256, np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1


class _ScanWindow(NamedTuple):
    """A range of a JSON text, with blanks in place of the contents of strings."""

    begin: int
    characters: Array
    depth: int
    """Number of open arrays and objects at the beginning of the window."""
    ended: tuple[int, int] | None
    """The string that began earlier and ends in this window, from quote to quote."""
    open_string: int
    """Begin of the string that is open at the end of the window, or -1."""


class LongArray:
    """An unparsed array of a JSON text."""

    def __init__(self, text: memoryview) -> None:
        """Keep the text, which includes both brackets."""
        self.text = text
        self._text = text[1:-1]

    async def slices(self, time_slice: TimeSlice) -> AsyncIterator[list[Any]]:
        """Yield the elements in groups; a long element may contain or be a `LongArray`.

        Raises:
            InvalidInput: the text is not JSON.
        """
        text, begin = self._text, 0
        async for end in _cuts(text, time_slice):
            part = text[begin:end]
            if len(part) > LONG_BYTES:
                elements = [await parse_json(part, time_slice)]
            else:
                elements = parsed(b"".join((b"[", part, b"]")))
                if not elements and (begin or end < len(text)):
                    raise InvalidInput("Error parsing JSON: an element of an array is missing")
            yield elements
            begin = end + 1

    async def first(self, count: int, time_slice: TimeSlice) -> list[Any]:
        """Return the first elements, at least `count` unless the array is shorter.

        Raises:
            InvalidInput: the text is not JSON.
        """
        found: list[Any] = []
        async for elements in self.slices(time_slice):
            found += elements
            if len(found) >= count:
                break
        return found


async def parse_json(text: bytes | memoryview, time_slice: TimeSlice) -> Any:
    """Return the value of a JSON text, with `LongArray` and `LongText` for its long parts.

    Raises:
        InvalidInput: the text is not JSON, or its outline is too large.
    """
    if len(text) <= LONG_BYTES:
        return parsed(text)
    text = memoryview(text)
    spans = await _long_values(text, time_slice)
    outline = bytearray()
    values: dict[str, LongArray | LongText] = {}
    # The random mark cannot occur in a text of the client.
    mark, end = secrets.token_hex(16), 0
    for begin, next_end in spans:
        name = f"{mark}{begin}"
        kind = LongText if text[begin] == ord('"') else LongArray
        values[name] = kind(text[begin:next_end])
        outline += text[end:begin]
        outline += f'"{name}"'.encode()
        end = next_end
    outline += text[end:]
    if len(outline) > LONG_BYTES:
        await _check_values(memoryview(outline), time_slice)
    top = [parsed(outline)]
    if values:
        _put(values, top)
    return top[0]


def _put(values: dict[str, LongArray | LongText], top: list[Any]) -> None:
    """Replace the placeholders in the parsed outline by the long values."""
    # The loop avoids recursion, because orjson accepts deeper nesting than Python's call stack.
    containers: list[Any] = [top]
    while containers:
        container = containers.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            if key in values:
                raise _wrong_name(values[key])
            if isinstance(value, (dict, list)):
                containers.append(value)
            elif isinstance(value, str) and value in values:
                container[key] = values[value]


def _wrong_name(name: LongArray | LongText) -> InvalidInput:
    if isinstance(name, LongText):
        return InvalidInput(f"the JSON has a name of more than {LONG_BYTES} bytes")
    return InvalidInput("Error parsing JSON: the name of a member is an array")


def _windows(text: memoryview) -> Iterator[_ScanWindow]:
    """Yield the windows of a text in order.

    Raises:
        InvalidInput: brackets or quotes do not match.
    """
    depth, string, is_escaped = 0, -1, False
    for begin in range(0, len(text), LONG_BYTES):
        window = bytes(text[begin : begin + LONG_BYTES])
        if is_escaped:
            window = b" " + window[1:]
        is_escaped = False
        if b"\\" in window:
            is_escaped = (len(window) - len(window.rstrip(b"\\"))) % 2 == 1
            window = window.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        characters = np.frombuffer(window, np.uint8)
        ended = None
        if string >= 0 or b'"' in window:
            inside = (np.cumsum(characters == ord('"'), dtype=np.int32) + (string >= 0)) & 1
            if string >= 0 and (end := window.find(b'"')) >= 0:
                ended, string = (string, begin + end + 1), -1
            if not inside[-1]:
                string = -1
            elif string < 0:
                string = begin + window.rfind(b'"')
            # Closing quotes stay; opening quotes count as inside. The scan below ignores quotes.
            characters = np.where(inside, ord(" "), characters)
        yield _ScanWindow(begin, characters, depth, ended, string)
        depth += int(_STEP[characters].sum(dtype=np.int32))
        if depth < 0:
            break
    if depth or string >= 0:
        raise InvalidInput("Error parsing JSON: brackets or quotes do not match")


async def _long_values(text: memoryview, time_slice: TimeSlice) -> list[tuple[int, int]]:
    """Return begin and end of the outermost long arrays and texts.

    Raises:
        InvalidInput: the outline is too large, or brackets or quotes do not match.
    """
    found: list[tuple[int, int]] = []
    num_inside = 0

    def add(begin: int, end: int) -> None:
        nonlocal num_inside
        if end - begin > LONG_BYTES:
            found.append((begin, end))
            num_inside += end - begin

    # `opened` is the begin of the outermost open array, and the depth outside it.
    opened: tuple[int, int] | None = None
    for window in _windows(text):
        steps = _STEP[window.characters]
        places = np.flatnonzero(steps)
        depths = window.depth + np.cumsum(steps[places], dtype=np.int64)
        if opened is not None:
            begin, depth = opened
            closing = np.flatnonzero(depths == depth)
            if not len(closing):
                await time_slice.yield_if_over()
                continue
            end = window.begin + int(places[closing[0]]) + 1
            if text[end - 1] != ord("]"):
                raise InvalidInput("Error parsing JSON: an array ends with a brace")
            add(begin, end)
            places, depths = places[closing[0] + 1 :], depths[closing[0] + 1 :]
        elif window.ended is not None:
            add(*window.ended)
        opened = _opened(window, places, depths)
        if opened is None:
            end = window.begin + len(window.characters)
            if window.open_string >= 0:
                end = window.open_string
            if end - num_inside > _MAX_OUTLINE_BYTES:
                raise InvalidInput(
                    f"the body has more than {_MAX_OUTLINE_BYTES} bytes of JSON beside the data "
                    "of its inputs; omit unused members"
                )
        await time_slice.yield_if_over()
    return found


def _opened(window: _ScanWindow, places: Array, depths: Array) -> tuple[int, int] | None:
    """Return the outermost array that begins in a window and ends in a later one.

    An array that ends in the same window is too short to be a long array.
    """
    if not len(places):
        return None
    # An array stays open if the depth never falls below the depth inside it.
    lowest_after = np.minimum.accumulate(depths[::-1])[::-1]
    is_array = window.characters[places] == ord("[")
    staying = np.flatnonzero(is_array & (lowest_after >= depths))
    if not len(staying):
        return None
    first = staying[0]
    return window.begin + int(places[first]), int(depths[first]) - 1


async def _cuts(text: memoryview, time_slice: TimeSlice) -> AsyncIterator[int]:
    """Yield the positions at which an array is split between elements; its end is the last.

    A part with several elements is within one window. A longer part is one element.
    """
    for window in _windows(text):
        commas = window.characters == ord(",")
        steps = _STEP[window.characters]
        if window.depth or steps.any():
            commas &= window.depth + np.cumsum(steps, dtype=np.int32) == 0
        places = np.flatnonzero(commas)
        if len(places):
            yield window.begin + int(places[0])
            if len(places) > 1:
                yield window.begin + int(places[-1])
        await time_slice.yield_if_over()
    yield len(text)


async def _check_values(text: memoryview, time_slice: TimeSlice) -> None:
    count = 0
    for window in _windows(text):
        count += np.count_nonzero(window.characters == ord(","))
        count += np.count_nonzero(_STEP[window.characters] == 1)
        if count > _MAX_VALUES:
            raise InvalidInput(
                f"the body has more than {_MAX_VALUES} JSON values beside the data of its inputs; "
                "omit unused members"
            )
        await time_slice.yield_if_over()


async def elements_of(array: list[Any] | LongArray, time_slice: TimeSlice) -> AsyncIterator[Any]:
    """Yield the elements of an array."""
    if isinstance(array, LongArray):
        async for elements in array.slices(time_slice):
            for each in elements:
                yield each
    else:
        for each in array:
            yield each


def text_of_json(value: Any) -> str:
    """Return the JSON text of a parsed value, whose long parts stay as the client wrote them."""
    return orjson.dumps(value, default=_as_written).decode()


def _as_written(value: Any) -> orjson.Fragment:
    if not isinstance(value, (LongArray, LongText)):
        raise TypeError(type(value).__name__)
    return orjson.Fragment(bytes(value.text))


async def tensor_of_json(
    name: str,
    value: Any,
    datatype: DataType,
    max_elements: int,
    time_slice: TimeSlice,
    max_axes: int = 8,
    begin: tuple[int, ...] = (0,),
) -> Tensor:
    """Return a JSON value as a tensor (see `array_of_json`).

    Raises:
        InvalidInput: as `array_of_json`, or the value has too many elements or dimensions.
    """
    if isinstance(value, LongText) and datatype is DataType.BYTES:
        return Tensor(name, datatype, (), await element_of(await value.parts(time_slice)))
    if not isinstance(value, LongArray):
        return from_numpy(name, array_of_json(name, value, datatype, begin))
    if not max_axes:
        raise InvalidInput(f"input {name!r} has too many dimensions")
    rows, axes, data = 0, None, []
    async for elements in value.slices(time_slice):
        here = (*begin[:-1], begin[-1] + rows)
        sole = elements[0] if len(elements) == 1 else None
        if isinstance(sole, (LongArray, LongText)):
            part = await tensor_of_json(
                name, sole, datatype, max_elements, time_slice, max_axes - 1, (*here, 0)
            )
            part = replace(part, shape=(1, *part.shape))
        else:
            part = await tensor_of_json(
                name, elements, datatype, max_elements, time_slice, begin=here
            )
        if axes not in (None, part.shape[1:]):
            raise InvalidInput(f"input {name!r} has rows of different lengths")
        rows, axes = rows + part.shape[0], part.shape[1:]
        if rows * max(1, prod(axes)) > max_elements:
            raise InvalidInput(f"input {name!r} has more than {max_elements} elements")
        data.append(part.data)
    return Tensor(name, datatype, (rows, *(axes or ())), await join(data))
