"""Requests of the gRPC doors, parsed within bounds.

A parser builds an object for every two bytes of the worst message, so that 64 MiB become gigabytes.
A useful large request is data with a little structure, so that its structure is measured first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Union

from google.protobuf.message import DecodeError

from skysail_common.errors import InvalidInput

MAX_STRUCTURE_BYTES = 256 * 1024
"""Bytes of a request beside its data; upb parses the worst of them in about 4 ms."""
_FIELD_BYTES = 16
"""Charge for a field beside its size, because a step past it takes time."""
_PACKED_NUMBERS = 8
"""Bytes of packed varints that count as one, because they are parsed that much faster."""
_MAX_SHIFT = 63
"""A varint has at most ten bytes of seven bits."""
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


class Data(Enum):
    """Content of a field that costs a parser little more than a copy."""

    BYTES = "bytes"
    """Bytes, text, or packed numbers of a fixed size."""
    VARINTS = "varints"
    """Packed numbers, of one to ten bytes each."""


Layout = Mapping[int, Union["Layout", Data]]
"""Fields of a message by number: those that hold data, and messages with such fields."""

_VARINT_CONTENTS: Layout = dict.fromkeys(range(1, 6), Data.VARINTS)
_CONTENTS: Layout = {**_VARINT_CONTENTS, 6: Data.BYTES, 7: Data.BYTES, 8: Data.BYTES}
_PARAMETER: Layout = {1: Data.BYTES, 2: {3: Data.BYTES}}
MODEL_INFER: Final[Layout] = {4: _PARAMETER, 5: {5: _CONTENTS}, 7: Data.BYTES}
"""Data of a ModelInferRequest: parameters, contents of inputs, raw contents."""
PREDICT: Final[Layout] = {4: {4: Data.BYTES}}
"""Data of a PredictRequest: those of its inputs."""
NO_DATA: Final[Layout] = {}


@dataclass(frozen=True)
class RequestParser:
    """Parses the requests of one type."""

    message_type: Any
    layout: Layout
    advice: str = "send only the fields of the protocol"
    """Fix for a request that is refused for its structure."""

    def parse(self, message: bytes) -> Any:
        """Return the parsed request.

        Raises:
            InvalidInput: it is no such message, or it has too much beside its data.
        """
        name = self.message_type.DESCRIPTOR.name
        try:
            if len(message) > MAX_STRUCTURE_BYTES:
                left = _left(message, 0, len(message), self.layout, MAX_STRUCTURE_BYTES)
                if left < 0:
                    raise InvalidInput(
                        f"cannot parse {name}: it has more than {MAX_STRUCTURE_BYTES // 1024} KiB "
                        f"beside its data; {self.advice}"
                    )
            return self.message_type.FromString(message)
        except (DecodeError, IndexError) as error:
            raise InvalidInput(f"Unable to parse request: it is not a {name}") from error


def _left(message: bytes, position: int, end: int, layout: Layout, budget: int) -> int:
    """Return what a message leaves of a budget of bytes; below 0 if it takes more.

    Raises:
        IndexError: the message ends in a field.
        DecodeError: it is no message, or it has groups, which proto3 lacks.
    """
    while position < end and budget >= 0:
        begin = position
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            size, position = _varint(message, position)
            after = position + size
            if after > end:
                raise IndexError
            content = layout.get(tag >> 3)
            if content is Data.BYTES:
                budget -= _FIELD_BYTES
            elif content is Data.VARINTS:
                budget -= _FIELD_BYTES + size // _PACKED_NUMBERS
            elif content is None:
                budget -= _FIELD_BYTES + after - begin
            else:
                budget = _left(message, position, after, content, budget - _FIELD_BYTES)
            position = after
            continue
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _FIXED64:
            position += 8
        elif kind == _FIXED32:
            position += 4
        else:
            raise DecodeError
        budget -= _FIELD_BYTES
    return budget


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and where the next begins."""
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
