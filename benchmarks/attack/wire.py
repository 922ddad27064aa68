"""Protobuf by hand: messages that no library would write."""


def varint(number: int) -> bytes:
    """Return a number of 0 to 64 bits as protobuf writes it."""
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
