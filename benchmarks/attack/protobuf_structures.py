"""The most expensive protobuf for each RPC."""

from functools import partial

from benchmarks.attack import models
from benchmarks.attack.structure import (
    DIGITS,
    IGNORED,
    REFUSED,
    Make,
    Structure,
    filled,
    numbered,
    table,
)
from benchmarks.attack.wire import block, scalar, varint

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT = "/skysail.v1.QueryService/Predict"
PREDICT_STREAM = "/skysail.v1.QueryService/PredictStream"
METADATA = "/inference.GRPCInferenceService/ModelMetadata"


def _entries(head: bytes, number: int) -> Make:
    """Repeat an entry of a map, each time under another key."""
    unit = block(number, block(1, DIGITS) + block(2, scalar(2, 1)))
    return partial(numbered, head, unit, b"")


def _repeated(head: bytes, unit: bytes) -> Make:
    return partial(filled, head, unit, b"")


def _contents(model: str, datatype: str, field: int, unit: bytes, *, is_packed: bool) -> Make:
    """Fill the typed elements of the single input of a ModelInferRequest."""

    def make(size: int) -> bytes:
        elements = unit * max(1, size // len(unit))
        contents = block(field, elements) if is_packed else elements
        head = block(1, b"x") + block(2, datatype.encode()) + block(3, b"\1\3")
        return block(1, model.encode()) + block(5, head + block(5, contents))

    return make


def _raw_texts(size: int) -> bytes:
    """Return empty texts as raw bytes, in the number of the shape."""
    count = max(1, size // 4)
    tensor = block(1, models.TEXT_INPUT.encode()) + block(2, b"BYTES")
    tensor += block(3, varint(count))
    return block(1, b"shout") + block(5, tensor) + block(7, bytes(4 * count))


def _of_tensor(field: int, datatype: int, unit: bytes) -> Make:
    """Fill one field of the single tensor of a PredictRequest."""

    def make(size: int) -> bytes:
        content = block(field, unit * max(1, size // len(unit)))
        return block(2, b"linear") + block(4, block(1, b"x") + scalar(2, datatype) + content)

    return make


_INFER = block(1, b"linear")
_INFER_INPUT = block(1, b"x") + block(2, b"FP64") + block(3, b"\1\3")
_INFER_WHOLE = _INFER + block(5, _INFER_INPUT) + block(7, bytes(24))
_INFER_ALL: dict[str, Make] = {
    "bytes_contents": _contents("shout", "BYTES", 8, block(8), is_packed=False),
    "bool_contents": _contents("linear", "BOOL", 1, b"\1", is_packed=True),
    "int_contents": _contents("linear", "INT8", 2, b"\1", is_packed=True),
    "int64_contents": _contents("linear", "INT64", 3, b"\1", is_packed=True),
    "uint64_contents": _contents("linear", "UINT64", 5, b"\1", is_packed=True),
    "fp64_contents": _contents("linear", "FP64", 7, bytes(8), is_packed=True),
    "unpacked int64_contents": _contents("linear", "INT64", 3, scalar(3, 1), is_packed=False),
    "inputs": _repeated(_INFER, block(5)),
    "whole inputs": _repeated(_INFER, block(5, _INFER_INPUT)),
    "raw_input_contents": _repeated(_INFER + block(5, _INFER_INPUT), block(7)),
    "sizes of the shape": lambda size: (
        _INFER + block(5, block(1, b"x") + block(2, b"FP64") + block(3, b"\1" * size))
    ),
    "an endless varint": partial(filled, b"\x0a", b"\xff", b""),
    "depth": _repeated(b"", b"\x7b"),
}  # fmt: skip
_INFER_IGNORED: dict[str, Make] = {
    "raw empty texts": _raw_texts,
    "outputs": _repeated(_INFER_WHOLE, block(6)),
    "parameters": _entries(_INFER_WHOLE, 4),
    "parameters of the input": _entries(_INFER, 4),
    "unknown fields": _repeated(_INFER_WHOLE, scalar(100, 1)),
    "unknown empty blocks": _repeated(_INFER_WHOLE, block(100)),
    "the same name": _repeated(_INFER_WHOLE, _INFER),
}
_PREDICT_ALL: dict[str, Make] = {
    "inputs": _repeated(block(2, b"linear"), block(4)),
    "sizes of the shape": _of_tensor(3, 12, b"\1"),
    "raw empty texts": _of_tensor(4, 13, bytes(4)),
    "raw numbers": _of_tensor(4, 9, bytes(8)),
    "an endless varint": partial(filled, b"\x12", b"\xff", b""),
}
_PREDICT_IGNORED: dict[str, Make] = {
    "unknown fields": _repeated(block(2, b"linear"), scalar(100, 1)),
}


_LONG_NAME: dict[str, Make] = {"a long name": lambda size: block(1, b"x" * size)}
_UNKNOWN = REFUSED | {"NOT_FOUND"}

PROTOBUF_STRUCTURES: list[Structure] = [
    *table(INFER, _INFER_ALL, REFUSED),
    *table(INFER, _INFER_IGNORED, IGNORED),
    *table(PREDICT, _PREDICT_ALL, REFUSED),
    *table(PREDICT, _PREDICT_IGNORED, IGNORED),
    *table(INFER, _LONG_NAME, _UNKNOWN),
    *table(METADATA, _LONG_NAME, _UNKNOWN),
]
