"""Numbers as Protocol Buffers serialize them."""

_MAX_SMALL = 0x80
SMALL_VARINTS = [bytes([number]) for number in range(_MAX_SMALL)]
"""Numbers that take one byte, by themselves."""


def varint(number: int) -> bytes:
    """Return a number of at least 0 as it is serialized."""
    if number < _MAX_SMALL:
        return SMALL_VARINTS[number]
    parts = bytearray()
    while number >= _MAX_SMALL:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
