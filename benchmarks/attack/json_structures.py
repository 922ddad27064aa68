"""The most expensive JSON for each HTTP door."""

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


def _text(head: str, unit: str, tail: str) -> Make:
    return partial(filled, head.encode(), unit.encode(), tail.encode())


def _members(head: str, value: str, tail: str) -> Make:
    """Repeat a member, each time under another name."""
    unit = f'"{DIGITS.decode()}":{value},'
    return partial(numbered, head.encode(), unit.encode(), f'"x":{value}{tail}'.encode())


_CLIPPER = f"/{models.APPLICATION}/predict"
_V2 = "/v2/models/linear/infer"
_V2_INPUT = '{"name":"x","datatype":"FP64","shape":[1,3],"data":[1,2,3]}'
_V2_DATA = '{"inputs":[{"name":"x","datatype":"FP64","shape":[1,3],"data":['
_TEXTS = f'{{"inputs":[{{"name":"{models.TEXT_INPUT}","datatype":"BYTES","shape":[1],"data":['

_CLIPPER_ALL: dict[str, Make] = {
    "empty lists": _text('{"input":[', "[],", "1]}"),
    "empty objects": _text('{"input":[', "{},", "1]}"),
    "empty texts": _text('{"input":[', '"",', "1]}"),
    "numbers": _text('{"input":[', "1,", "1]}"),
    "floats": _text('{"input":[', "1.5e300,", "1]}"),
    "nulls": _text('{"input":[', "null,", "1]}"),
    "rows": _text('{"input_batch":[', "[],", "[1,2,3]]}"),
    "one long text": _text('{"input":"', "x", '"}'),
    "escapes": _text('{"input":"', "\\u0041", '"}'),
    "digits": _text('{"input":[', "1", "]}"),
    "depth": partial(filled, b'{"input":', b"[", b"]}"),
    "spaces": _text('{"input":', " ", "[[]]}"),
    "members of the input": _members('{"input":{', "[]", "}}"),
    "not JSON": _text("", "x", ""),
}  # fmt: skip
_CLIPPER_IGNORED: dict[str, Make] = {
    "unknown member": _text('{"input":[1,2,3],"x":[', "[],", "1]}"),
    "unknown members": _members('{"input":[1,2,3],', "0", "}"),
    "the same member": _text("{", '"input":[],', '"input":[1,2,3]}'),
    "valid rows": _text('{"input_batch":[', "[1,2,3],", "[1,2,3]]}"),
}
_V2_ALL: dict[str, Make] = {
    "empty lists": _text(_V2_DATA, "[],", "1]}]}"),
    "numbers": _text(_V2_DATA, "1,", "1]}]}"),
    "empty texts": _text(_TEXTS, '"",', '""]}]}'),
    "inputs": _text('{"inputs":[', "{},", "{}]}"),
    "whole inputs": _text('{"inputs":[', f"{_V2_INPUT},", f"{_V2_INPUT}]}}"),
    "sizes of the shape": _text(
        '{"inputs":[{"name":"x","datatype":"FP64","shape":[', "1,", '1],"data":[1,2,3]}]}'
    ),
    "outputs": _text(f'{{"inputs":[{_V2_INPUT}],"outputs":[', '{"name":"y"},', '{"name":"z"}]}'),
    "depth": partial(filled, _V2_DATA.encode(), b"[", b""),
}  # fmt: skip
_V2_IGNORED: dict[str, Make] = {
    "unknown member": _text(f'{{"inputs":[{_V2_INPUT}],"x":[', "1,", "1]}"),
    "unknown empty lists": _text(f'{{"inputs":[{_V2_INPUT}],"x":[', "[],", "1]}"),
    "parameters": _members(f'{{"inputs":[{_V2_INPUT}],"parameters":{{', "1", "}}"),
}  # fmt: skip
JSON_STRUCTURES: list[Structure] = [
    *table(_CLIPPER, _CLIPPER_ALL, REFUSED),
    *table(_CLIPPER, _CLIPPER_IGNORED, IGNORED),
    *table(_V2, _V2_ALL, REFUSED),
    *table(_V2, _V2_IGNORED, IGNORED),
]
