"""JSON texts of any length, parsed in turns: orjson keeps the loop for as long as it parses.

A long text is cut at its long arrays. Each is parsed when somebody asks for it, some elements at a
time, so that members that nobody knows cost no more than a look at their bytes.

    {"inputs": [{"name": "x", "data": LongArray}]}      LongArray.slices() ─► [1, 2, …], [3, …]
"""

import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
import orjson

from skysail_common.errors import InvalidInput
from skysail_common.tensors import Array, DataType, Tensor, from_numpy
from skysail_frontend.ingress.json_values import array_of_json
from skysail_frontend.ingress.turns import Turn, join

LONG_BYTES = 32 * 1024
"""Length up to which a text is parsed at once, which takes 4 ms at worst."""

_MAX_VALUES = 50_000
"""Values of a text outside of its long arrays."""

_NAMES = re.compile(rb'("(?:[^"\\]|\\.)*"?)|\bNaN\b|(-?\bInfinity\b)', re.DOTALL)
"""Strings, and numbers that JSON has no names for; `json.dumps` of Python writes these by default.

A string without an end is one too: looked for at each quote, its end would take quadratic time.
"""

_STEP = np.zeros(256, np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1


class _Window(NamedTuple):
    """Some bytes of a JSON text, without what is inside of strings."""

    begin: int
    characters: Array
    depth: int
    """Arrays and objects that are open where the window begins."""


class LongArray:
    """An array of a JSON text that is not parsed yet."""

    def __init__(self, text: memoryview) -> None:
        """Takes the text from bracket to bracket."""
        self._text = text[1:-1]

    async def slices(self, turn: Turn) -> AsyncIterator[list[Any]]:
        """Return the elements, some at a time; a long one may hold or be a `LongArray`.

        Raises:
            InvalidInput: it is not JSON.
        """
        text, begin = self._text, 0
        async for end in _cuts(text, turn):
            part = text[begin:end]
            if len(part) > LONG_BYTES:
                elements = [await parse_json(part, turn)]
            else:
                elements = _parsed(b"".join((b"[", part, b"]")))
                if not elements and (begin or end < len(text)):
                    raise InvalidInput("Error parsing JSON: an element of an array is missing")
            yield elements
            begin = end + 1

    async def first(self, count: int, turn: Turn) -> list[Any]:
        """Return the first elements, at least so many if there are.

        Raises:
            InvalidInput: they are not JSON.
        """
        found: list[Any] = []
        async for elements in self.slices(turn):
            found += elements
            if len(found) >= count:
                break
        return found


async def parse_json(text: bytes | memoryview, turn: Turn) -> Any:
    """Return the value of a JSON text, in which long arrays are `LongArray`.

    Raises:
        InvalidInput: it is not JSON, or has too many values outside of long arrays.
    """
    if len(text) <= LONG_BYTES:
        return _parsed(text)
    text = memoryview(text)
    spans = await _long_arrays(text, turn)
    outline, arrays = bytearray(), {}
    # No text of the client reads like it.
    mark, end = secrets.token_hex(16), 0
    for begin, next_end in spans:
        name = f"{mark}{begin}"
        arrays[name] = LongArray(text[begin:next_end])
        outline += text[end:begin]
        outline += f'"{name}"'.encode()
        end = next_end
    outline += text[end:]
    if len(outline) > LONG_BYTES:
        await _check_values(memoryview(outline), turn)
    top = [_parsed(outline)]
    if arrays:
        _put(arrays, top)
    return top[0]


def _put(arrays: dict[str, LongArray], top: list[Any]) -> None:
    """Put long arrays where their names are."""
    # Without recursion: orjson takes texts that are nested more deeply than Python's calls may be.
    containers: list[Any] = [top]
    while containers:
        container = containers.pop()
        items = container.items() if isinstance(container, dict) else enumerate(container)
        for key, value in items:
            if key in arrays:
                raise InvalidInput("Error parsing JSON: the name of a member is an array")
            if isinstance(value, (dict, list)):
                containers.append(value)
            elif isinstance(value, str) and value in arrays:
                container[key] = arrays[value]


def _parsed(text: bytes | bytearray | memoryview) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        named = _NAMES.sub(_in_json, text) if len(text) <= LONG_BYTES else text
        if named == text:
            raise InvalidInput(f"Error parsing JSON: {error}") from error
    return _parsed(named)


def _in_json(found: re.Match[bytes]) -> bytes:
    """Return what JSON has in the place of a name; a string stays as it is."""
    text, infinity = found.groups()
    return text or (b'"%b"' % infinity if infinity else b"null")


def _windows(text: memoryview) -> Iterator[_Window]:
    """Read a text, some bytes at a time.

    Raises:
        InvalidInput: brackets or strings do not end, or end more often than they begin.
    """
    depth, is_inside, is_escaped = 0, False, False
    for begin in range(0, len(text), LONG_BYTES):
        window = bytes(text[begin : begin + LONG_BYTES])
        if is_escaped:
            window = b" " + window[1:]
        is_escaped = False
        if b"\\" in window:
            is_escaped = (len(window) - len(window.rstrip(b"\\"))) % 2 == 1
            window = window.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        characters = np.frombuffer(window, np.uint8)
        if is_inside or b'"' in window:
            inside = (np.cumsum(characters == ord('"'), dtype=np.int32) + is_inside) & 1
            is_inside = bool(inside[-1])
            # Quotes stay; those that begin a string count as inside, and mean nothing below.
            characters = np.where(inside, ord(" "), characters)
        yield _Window(begin, characters, depth)
        depth += int(_STEP[characters].sum(dtype=np.int32))
        if depth < 0:
            break
    if depth or is_inside:
        raise InvalidInput("Error parsing JSON: brackets or quotes do not match")


async def _long_arrays(text: memoryview, turn: Turn) -> list[tuple[int, int]]:
    """Return where the outermost long arrays begin and end."""
    found: list[tuple[int, int]] = []
    # Begin of the outermost array that is open, and the depth outside of it.
    opened: tuple[int, int] | None = None
    for window in _windows(text):
        steps = _STEP[window.characters]
        places = np.flatnonzero(steps)
        depths = window.depth + np.cumsum(steps[places], dtype=np.int64)
        if opened is not None:
            begin, depth = opened
            closing = np.flatnonzero(depths == depth)
            if not len(closing):
                await turn.end_if_long()
                continue
            end = window.begin + int(places[closing[0]]) + 1
            if text[end - 1] != ord("]"):
                raise InvalidInput("Error parsing JSON: an array ends with a brace")
            if end - begin > LONG_BYTES:
                found.append((begin, end))
            places, depths = places[closing[0] + 1 :], depths[closing[0] + 1 :]
        opened = _opened(window, places, depths)
        await turn.end_if_long()
    return found


def _opened(window: _Window, places: Array, depths: Array) -> tuple[int, int] | None:
    """Return the outermost array that begins in a window and does not end there.

    One that ends there is not longer than a window, so that it is no long array.
    """
    if not len(places):
        return None
    # What is opened stays open if the depth never falls below the one inside of it.
    lowest_after = np.minimum.accumulate(depths[::-1])[::-1]
    is_array = window.characters[places] == ord("[")
    staying = np.flatnonzero(is_array & (lowest_after >= depths))
    if not len(staying):
        return None
    first = staying[0]
    return window.begin + int(places[first]), int(depths[first]) - 1


async def _cuts(text: memoryview, turn: Turn) -> AsyncIterator[int]:
    """Return where an array is cut between its elements; its end is the last cut.

    A part with several elements comes from one window. A longer part is one element.
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
        await turn.end_if_long()
    yield len(text)


async def _check_values(text: memoryview, turn: Turn) -> None:
    count = 0
    for window in _windows(text):
        count += np.count_nonzero(window.characters == ord(","))
        count += np.count_nonzero(_STEP[window.characters] == 1)
        if count > _MAX_VALUES:
            raise InvalidInput(
                f"the body has more than {_MAX_VALUES} JSON values beside the data of its inputs; "
                "leave out what no input needs"
            )
        await turn.end_if_long()


async def elements_of(array: list[Any] | LongArray, turn: Turn) -> AsyncIterator[Any]:
    """Return the elements of an array, one by one."""
    if isinstance(array, LongArray):
        async for elements in array.slices(turn):
            for each in elements:
                yield each
    else:
        for each in array:
            yield each


async def tensor_of_json(
    name: str, value: Any, datatype: DataType, max_elements: int, turn: Turn, max_axes: int = 8
) -> Tensor:
    """Return a JSON value as a tensor, as `array_of_json` takes it.

    Raises:
        InvalidInput: as `array_of_json`, or it has more elements than it may.
    """
    if not isinstance(value, LongArray):
        return from_numpy(name, array_of_json(name, value, datatype))
    if not max_axes:
        raise InvalidInput(f"input {name!r} has too many dimensions")
    rows, axes, data = 0, None, []
    async for elements in value.slices(turn):
        sole = elements[0] if len(elements) == 1 else None
        if isinstance(sole, LongArray):
            part = await tensor_of_json(name, sole, datatype, max_elements, turn, max_axes - 1)
            part = replace(part, shape=(1, *part.shape))
        else:
            part = await tensor_of_json(name, elements, datatype, max_elements, turn)
        if axes not in (None, part.shape[1:]):
            raise InvalidInput(f"input {name!r} has rows of different lengths")
        rows, axes = rows + part.shape[0], part.shape[1:]
        if rows * max(1, prod(axes)) > max_elements:
            raise InvalidInput(f"input {name!r} has more than {max_elements} elements")
        data.append(part.data)
    return Tensor(name, datatype, (rows, *(axes or ())), await join(data))
