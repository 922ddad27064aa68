"""JSON texts of any length, parsed in turns: orjson keeps the loop for as long as it parses.

What is long is cut at its long arrays and texts. Each is parsed when somebody asks for it, in parts,
so that members that nobody knows cost no more than a look at their bytes. The rest, the outline, is
parsed at once, and bounded.

    {"inputs": [{"name": "x", "data": LongArray}]}      LongArray.slices() ─► [1, 2, …], [3, …]
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from skysail_common.errors import InvalidInput
from skysail_common.tensors import Array, DataType, Tensor, from_numpy
from skysail_frontend.ingress.json_values import array_of_json, parsed
from skysail_frontend.ingress.long_texts import LongText, element_of
from skysail_frontend.ingress.time_slice import TimeSlice, join

LONG_BYTES = 32 * 1024
"""Length up to which a text is parsed at once, which takes 4 ms at worst."""

_MAX_VALUES = 50_000
_MAX_OUTLINE_BYTES = 1024 * 1024
"""Values, and bytes, of a text outside of its long arrays and texts."""

_STEP = np.zeros(256, np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1


class _ScanWindow(NamedTuple):
    """Some bytes of a JSON text, without what is inside of strings."""

    begin: int
    characters: Array
    depth: int
    """Arrays and objects that are open where the window begins."""
    ended: tuple[int, int] | None
    """The string that ends here and began before, from quote to quote."""
    open_string: int
    """Where the string begins that is open at the end of the window, or -1."""


class LongArray:
    """An array of a JSON text that is not parsed yet."""

    def __init__(self, text: memoryview) -> None:
        """Takes the text from bracket to bracket."""
        self._text = text[1:-1]

    async def slices(self, time_slice: TimeSlice) -> AsyncIterator[list[Any]]:
        """Return the elements, some at a time; a long one may hold or be a `LongArray`.

        Raises:
            InvalidInput: it is not JSON.
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
        """Return the first elements, at least so many if there are.

        Raises:
            InvalidInput: they are not JSON.
        """
        found: list[Any] = []
        async for elements in self.slices(time_slice):
            found += elements
            if len(found) >= count:
                break
        return found


async def parse_json(text: bytes | memoryview, time_slice: TimeSlice) -> Any:
    """Return the value of a JSON text, in which long arrays and texts are such.

    Raises:
        InvalidInput: it is not JSON, or has too much outside of long arrays and texts.
    """
    if len(text) <= LONG_BYTES:
        return parsed(text)
    text = memoryview(text)
    spans = await _long_values(text, time_slice)
    outline = bytearray()
    values: dict[str, LongArray | LongText] = {}
    # No text of the client reads like it.
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
    """Put long values where their names are."""
    # Without recursion: orjson takes texts that are nested more deeply than Python's calls may be.
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
    """Read a text, some bytes at a time.

    Raises:
        InvalidInput: brackets or strings do not end, or end more often than they begin.
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
            # Quotes stay; those that begin a string count as inside, and mean nothing below.
            characters = np.where(inside, ord(" "), characters)
        yield _ScanWindow(begin, characters, depth, ended, string)
        depth += int(_STEP[characters].sum(dtype=np.int32))
        if depth < 0:
            break
    if depth or string >= 0:
        raise InvalidInput("Error parsing JSON: brackets or quotes do not match")


async def _long_values(text: memoryview, time_slice: TimeSlice) -> list[tuple[int, int]]:
    """Return where the outermost long arrays and texts begin and end.

    Raises:
        InvalidInput: there is too much outside of them, or brackets or strings do not match.
    """
    found: list[tuple[int, int]] = []
    num_inside = 0

    def add(begin: int, end: int) -> None:
        nonlocal num_inside
        if end - begin > LONG_BYTES:
            found.append((begin, end))
            num_inside += end - begin

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
                await time_slice.end_if_long()
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
                    "of its inputs; leave out what no input needs"
                )
        await time_slice.end_if_long()
    return found


def _opened(window: _ScanWindow, places: Array, depths: Array) -> tuple[int, int] | None:
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


async def _cuts(text: memoryview, time_slice: TimeSlice) -> AsyncIterator[int]:
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
        await time_slice.end_if_long()
    yield len(text)


async def _check_values(text: memoryview, time_slice: TimeSlice) -> None:
    count = 0
    for window in _windows(text):
        count += np.count_nonzero(window.characters == ord(","))
        count += np.count_nonzero(_STEP[window.characters] == 1)
        if count > _MAX_VALUES:
            raise InvalidInput(
                f"the body has more than {_MAX_VALUES} JSON values beside the data of its inputs; "
                "leave out what no input needs"
            )
        await time_slice.end_if_long()


async def elements_of(array: list[Any] | LongArray, time_slice: TimeSlice) -> AsyncIterator[Any]:
    """Return the elements of an array, one by one."""
    if isinstance(array, LongArray):
        async for elements in array.slices(time_slice):
            for each in elements:
                yield each
    else:
        for each in array:
            yield each


async def tensor_of_json(
    name: str,
    value: Any,
    datatype: DataType,
    max_elements: int,
    time_slice: TimeSlice,
    max_axes: int = 8,
    begin: tuple[int, ...] = (0,),
) -> Tensor:
    """Return a JSON value as a tensor, as `array_of_json` takes it.

    Raises:
        InvalidInput: as `array_of_json`, or it has more elements than it may.
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
