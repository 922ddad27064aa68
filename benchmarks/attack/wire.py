"""Hand-written protobuf for messages that no library writes."""


def varint(number: int) -> bytes:
    """Return the varint encoding of a number of up to 64 bits."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def block(number: int, content: bytes = b"") -> bytes:
    """Return a field that holds bytes, a text, a message or packed numbers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def scalar(number: int, value: int) -> bytes:
    """Return a field that holds one varint."""
    return varint(number << 3) + varint(value)
