"""Long strings of JSON, decoded in parts, because a parser blocks the loop while it reads one."""

import re

from skysail_common.errors import InvalidInput
from skysail_frontend.ingress.json_values import base64_bytes, parsed
from skysail_frontend.ingress.time_slice import TimeSlice, join

_STEP_BYTES = 32 * 1024

_PAIR_BYTES = 12
"""Length of the longest escape, `\\ud83d\\ude00` for one character."""
_is_first_half = re.compile(rb"\\u[dD][89abAB]..", re.DOTALL).fullmatch


class LongText:
    """An unparsed string of a JSON text."""

    def __init__(self, text: memoryview) -> None:
        """Keep the text, which includes both quotes."""
        self.text = text
        self._text = text[1:-1]

    async def parts(self, time_slice: TimeSlice) -> list[bytes]:
        """Return the string as UTF-8, in parts of whole characters.

        Raises:
            InvalidInput: the text is not JSON.
        """
        text, begin = self._text, 0
        parts: list[bytes] = []
        while begin < len(text):
            end = _cut(text, begin)
            parts.append(parsed(b'"%b"' % bytes(text[begin:end])).encode())
            begin = end
            await time_slice.yield_if_over()
        return parts


def _cut(text: memoryview, begin: int) -> int:
    """Return the end of a part, which must be between two characters."""
    end = begin + _STEP_BYTES
    if end >= len(text):
        return len(text)
    # A character of UTF-8 has at most three continuation bytes.
    for _ in range(3):
        end -= text[end] & 0xC0 == 0x80
    part = bytes(text[begin:end])
    place = part.rfind(b"\\")
    if place < len(part) - _PAIR_BYTES:
        return end
    before = part[: place + 1]
    if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
        # This backslash is the second of an escaped pair, so that it starts no escape.
        return end
    first_half = _is_first_half(part[max(0, place - 6) : place])
    return begin + place - (6 if first_half else 0)


async def decoded(name: str, text: LongText, time_slice: TimeSlice) -> list[bytes]:
    """Return the bytes of an input from a long base64 text, in parts.

    Raises:
        InvalidInput: the text is not JSON, or not base64.
    """
    parts: list[bytes] = []
    left, is_padded = b"", False
    for part in await text.parts(time_slice):
        if is_padded:
            raise InvalidInput(f"input {name!r} is not base64: it continues after its padding")
        left += part
        size = len(left) // 4 * 4
        whole, left = left[:size], left[size:]
        parts.append(base64_bytes(name, whole))
        is_padded = b"=" in whole
        await time_slice.yield_if_over()
    return [*parts, base64_bytes(name, left)]


async def element_of(parts: list[bytes]) -> bytes:
    """Return the data of a BYTES tensor with one element, from the parts of the element."""
    return await join([sum(map(len, parts)).to_bytes(4, "little"), *parts])
