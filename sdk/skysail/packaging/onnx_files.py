"""The files beside an ONNX model that hold its weights.

The model is read by the few fields of its protobuf that name such files, because neither onnx nor a
copy of the weights in memory is needed for that.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from skysail_common.errors import InvalidInput

# Numbers of the fields in onnx.proto that lead to tensors: in a model its graph and its functions, in a
# graph nodes and initializers, in a node attributes, in an attribute tensors and graphs.
_PATHS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_MAX_DEPTH = 64

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(model: Path) -> dict[str, Path]:
    """Return the files with weights of a model by their path relative to it.

    Raises:
        InvalidInput: a file is absent or outside of the directory of the model, or the model is
            damaged.
    """
    found: dict[str, Path] = {}
    with model.open("rb") as file:
        if model.stat().st_size == 0:
            raise InvalidInput(f"cannot deploy {model}: the file is empty; export the model again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                locations = set(_locations(content, 0, len(content), "model", 0))
            except (IndexError, UnicodeDecodeError) as error:
                raise InvalidInput(
                    f"cannot deploy {model}: the file is no ONNX model, or is damaged; export the "
                    "model again"
                ) from error
    for location in sorted(locations):
        pure = PurePosixPath(location)
        if pure.is_absolute() or ".." in pure.parts:
            raise InvalidInput(
                f"cannot deploy {model}: it names the file {location!r} outside of its directory; "
                "save it again with the weights beside it"
            )
        path = model.parent / pure
        if not path.is_file():
            raise InvalidInput(
                f"cannot deploy {model}: its weights are in {location!r}, and {path} does not exist; "
                "put the file beside the model"
            )
        found[pure.as_posix()] = path
    return found


def _locations(content: mmap.mmap, begin: int, end: int, kind: str, depth: int) -> Iterator[str]:
    """Yield the locations that a message, from `begin` to `end`, names.

    Raises:
        IndexError: the message is damaged.
    """
    if depth > _MAX_DEPTH:
        raise IndexError("messages are nested too deeply")
    for number, first, last in _fields(content, begin, end):
        inner = _PATHS[kind].get(number)
        if inner == "entry":
            entry = {key: content[at:to] for key, at, to in _fields(content, first, last)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()
        elif inner is not None:
            yield from _locations(content, first, last, inner, depth + 1)


def _fields(content: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, begin and end of each field that holds bytes or a message."""
    at = begin
    while at < end:
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            size, at = _varint(content, at)
            if size > end - at:
                raise IndexError("a field ends outside of its message")
            yield number, at, at + size
            at += size
        elif wire == _VARINT:
            _, at = _varint(content, at)
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
        else:
            raise IndexError("unknown wire type")


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a number is too long")
