"""Bounded parsing of requests of the gRPC doors.

A parser builds an object for every two bytes of the worst message, so that 64 MiB become gigabytes.
A useful large request consists of data with little structure, so that its structure is measured
first. The parser reads only the structure of a large request. The data stay in the message, because
a copy of 64 MiB takes about 25 ms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Union

from google.protobuf.message import DecodeError

from skysail_common.errors import InvalidInput
from skysail_common.rpc.varints import varint

MAX_STRUCTURE_BYTES = 256 * 1024
"""Largest structure of a request, without its data; upb parses the worst in about 4 ms."""
_FIELD_BYTES = 16
"""Charge for a field in addition to its size, because the scan of a field takes time."""
_PACKED_VARINTS = 8
"""Bytes of packed varints that count as one byte, because they parse that much faster."""
_PACKED_FLOATS = 16
"""Bytes of packed floats that count as one byte, because they are copied but not parsed."""
_PLACE_BYTES = 4
"""Size of a placeholder for data."""
_PLACE_LENGTH = bytes([_PLACE_BYTES])
_MAX_SHIFT = 63
"""A varint has at most ten bytes of seven bits."""
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


class FieldContent(Enum):
    """Content of a field that is cheap to parse for its size."""

    DETACHED = "detached"
    """Bytes that stay in the message and are not parsed."""
    FLOATS = "floats"
    """Packed numbers of a fixed size."""
    VARINTS = "varints"
    """Packed numbers of one to ten bytes each."""


Layout = Mapping[int, Union["Layout", FieldContent]]
"""Fields of a message by number: fields with data, and submessages with such fields."""

_VARINT_CONTENTS: Layout = dict.fromkeys(range(1, 6), FieldContent.VARINTS)
_CONTENTS: Layout = {
    **_VARINT_CONTENTS,
    6: FieldContent.FLOATS,
    7: FieldContent.FLOATS,
    8: FieldContent.DETACHED,
}
MODEL_INFER: Final[Layout] = {5: {5: _CONTENTS}, 7: FieldContent.DETACHED}
"""Data of a ModelInferRequest: contents of inputs, and raw contents."""
PREDICT: Final[Layout] = {4: {4: FieldContent.DETACHED}}
"""Data of a PredictRequest: the data of its inputs."""
NO_DATA: Final[Layout] = {}


class DetachedData:
    """Data of a large request, which stay in its message."""

    def __init__(self, message: bytes) -> None:
        self._message = memoryview(message)
        self._begins: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._begins)

    def add(self, begin: int, end: int) -> bytes:
        """Add a part of the message and return its placeholder."""
        self._begins.append(begin)
        self._ends.append(end)
        return len(self._begins).to_bytes(_PLACE_BYTES, "big")

    def data(self, content: bytes) -> memoryview:
        """Return the data for the placeholder in a field."""
        if not content:
            # The field is absent.
            return self._message[:0]
        place = int.from_bytes(content, "big") - 1
        return self._message[self._begins[place] : self._ends[place]]


@dataclass(frozen=True)
class RequestParser:
    """A parser of the requests of one type."""

    message_type: Any
    layout: Layout
    advice: str = "send only the fields of the protocol"
    """Fix in the error for a request with too much structure."""
    whole_bytes: int = MAX_STRUCTURE_BYTES
    """Largest request that is parsed together with its data."""

    def parse(self, message: bytes) -> tuple[Any, DetachedData | None]:
        """Return the parsed request, and its data if they are detached.

        Raises:
            InvalidInput: the message is of another type, or has too much structure.
        """
        name = self.message_type.DESCRIPTOR.name
        detached = None
        try:
            if len(message) > self.whole_bytes:
                large = _LargeMessage(message, self.layout)
                if large.budget < 0:
                    raise InvalidInput(
                        f"cannot parse {name}: it has more than {MAX_STRUCTURE_BYTES // 1024} KiB "
                        f"beside its data; {self.advice}"
                    )
                if large.detached:
                    message, detached = large.structure(), large.detached
            return self.message_type.FromString(message), detached
        except (DecodeError, IndexError) as error:
            raise InvalidInput(f"Unable to parse request: it is not a {name}") from error


class _LargeMessage:
    """A message whose structure is separated from its data.

    Raises:
        IndexError: the message ends inside a field.
        DecodeError: the bytes are not a message, or contain groups, which proto3 lacks.
    """

    def __init__(self, message: bytes, layout: Layout) -> None:
        self.budget = MAX_STRUCTURE_BYTES
        """Remaining bytes for structure; negative if the structure is too large."""
        self.detached = DetachedData(message)
        self._message = message
        self._parts: list[bytes] = []
        self._walk(0, len(message), layout)

    def structure(self) -> bytes:
        """Return the message with placeholders in place of its data."""
        return b"".join(self._parts)

    def _walk(self, position: int, end: int, layout: Layout) -> int:
        """Append the structure of a message to the parts and return its length."""
        message, parts = self._message, self._parts
        length = 0
        kept = position
        while position < end and self.budget >= 0:
            begin = position
            tag, position = _varint(message, position)
            kind = tag & 7
            self.budget -= _FIELD_BYTES
            if kind == _LENGTH_DELIMITED:
                tag_end = position
                size, position = _varint(message, position)
                after = position + size
                if after > end:
                    raise IndexError
                content = layout.get(tag >> 3)
                if content is None:
                    self.budget -= after - begin
                elif content is FieldContent.FLOATS:
                    self.budget -= size // _PACKED_FLOATS
                elif content is FieldContent.VARINTS:
                    self.budget -= size // _PACKED_VARINTS
                elif content is FieldContent.DETACHED:
                    place = self.detached.add(position, after)
                    parts += (message[kept:tag_end], _PLACE_LENGTH, place)
                    length += tag_end - kept + len(_PLACE_LENGTH) + len(place)
                    kept = after
                else:
                    parts += (message[kept:tag_end], b"")
                    at = len(parts) - 1
                    inner = self._walk(position, after, content)
                    parts[at] = varint(inner)
                    length += tag_end - kept + len(parts[at]) + inner
                    kept = after
                position = after
            elif kind == _VARINT:
                _, position = _varint(message, position)
            elif kind == _FIXED64:
                position += 8
            elif kind == _FIXED32:
                position += 4
            else:
                raise DecodeError
        if self.budget >= 0:
            parts.append(message[kept:end])
        return length + end - kept


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    number = message[position]
    position += 1
    if number < 0x80:
        return number, position
    number &= 0x7F
    for shift in range(7, _MAX_SHIFT + 1, 7):
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
    raise DecodeError
