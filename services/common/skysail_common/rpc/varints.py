"""Variable-length integers of Protocol Buffers."""

_MAX_SMALL = 0x80
SMALL_VARINTS = [bytes([number]) for number in range(_MAX_SMALL)]
"""Encodings of the numbers that take one byte, by number."""


def varint(number: int) -> bytes:
    """Return the encoding of a number of at least 0."""
    if number < _MAX_SMALL:
        return SMALL_VARINTS[number]
    parts = bytearray()
    while number >= _MAX_SMALL:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
