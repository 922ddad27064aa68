"""Fuzzer: JSON for both HTTP doors: deep, wide, huge, duplicated, of wrong shape, or broken."""

import json
from random import Random
from typing import Any

from benchmarks.attack.cases import Case
from benchmarks.attack.models import APPLICATION, question
from benchmarks.attack.mutations import mutated
from benchmarks.attack.sending import ENCODINGS, packed

_ODD_TEXTS = (
    "1e400", "-0", "1" * 400, "NaN", "-Infinity", "1E-400", "0.1e1", '"\\ud800"', '"\\u0000"',
    "null", "true", "[]", "{}", "[[]]", '""', '"x"', "[" * 200 + "]" * 200, "[" * 3000, "0x10",
    "[" + "1," * 2000 + "1]", "[" + "[]," * 2000 + "1]", '{"a":1,"a":2}', "18446744073709551616",
)  # fmt: skip
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 2**63, 1e308, "", "x", "é" * 400, [], {}, [[]], [None], [[], [[]]],
    {"name": "x"}, [1, "1"], [1, [2]],
)  # fmt: skip
_HEADERS: tuple[dict[str, str], ...] = (
    {}, {}, {}, {}, {"Inference-Header-Content-Length": "10"}, {"skysail-timeout-ms": "nan"},
    {"Inference-Header-Content-Length": "-1"}, {"Content-Type": "text/plain"},
    {"Content-Encoding": "gzip"}, {"Content-Encoding": "br"},
)  # fmt: skip
_ANSWERS = frozenset({"200", "400", "404", "405", "413", "415", "422"})
_PATHS = ("/v2/models/nope/infer", "/v2/models/linear/versions/9/infer", "/nope/predict", "/v2")


def case(rng: Random) -> Case:
    """Return a body for one of the doors."""
    if rng.random() < 0.5:
        model, value = _v2(rng)
        path = f"/v2/models/{model}/infer"
    else:
        path, value = f"/{APPLICATION}/predict", _clipper(rng)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        value = _distorted(rng, value)
    body = json.dumps(value).encode()
    if rng.random() < 0.3:
        at = rng.randrange(len(body))
        body = body[:at] + rng.choice(_ODD_TEXTS).encode() + body[at + rng.choice((0, 1, 3)) :]
    if rng.random() < 0.3:
        body = mutated(rng, body)
    if rng.random() < 0.1:
        path = rng.choice(_PATHS)
    encoding, headers = rng.choice((*ENCODINGS, "identity")), dict(rng.choice(_HEADERS))
    body = packed(body, encoding)
    if rng.random() < 0.05:
        body = mutated(rng, body)
    return Case(
        f"{path.rpartition('/')[2]}, {len(body)} bytes",
        lambda sender: sender.post(path, body, encoding, **headers),
        _ANSWERS,
    )


def _v2(rng: Random) -> tuple[str, Any]:
    asked = question(rng)
    inputs = [
        {
            "name": name,
            "datatype": "BYTES" if array.dtype == object else "FP64",
            "shape": list(array.shape),
            "data": array.ravel().tolist(),
        }
        for name, array in asked.inputs.items()
    ]
    value = {"id": "7", "parameters": {"priority": 1}, "inputs": inputs}
    return asked.model, value | {"outputs": [{"name": "output"}]}


def _clipper(rng: Random) -> Any:
    rows = [[rng.randrange(-9, 9) for _ in range(3)] for _ in range(rng.randrange(1, 4))]
    return {"input": rows[0]} if len(rows) == 1 else {"input_batch": rows}


def _distorted(rng: Random, value: Any) -> Any:
    """Return a value in which one part is replaced, removed or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        rest = {name: each for name, each in value.items() if name != key}
        change = rng.random()
        if change < 0.1:
            return rest
        if change < 0.2:
            return {**value, rng.choice(("x", "", "é", "k" * 500)): rng.choice(_ODD_VALUES)}
        return {**rest, key: _distorted(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value * rng.choice((0, 2, 50))
        return [*value[:at], _distorted(rng, value[at]), *value[at + 1 :]]
    return rng.choice(_ODD_VALUES)
