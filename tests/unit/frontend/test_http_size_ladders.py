"""The cost of an HTTP request grows no faster than its size, and no request blocks the loop."""

import asyncio
import gc
import gzip
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from math import inf

import pytest

from skysail_common.tensors import Content, DataType, Signature, TensorSpec
from skysail_testing.costs import while_patient
from unit.frontend.doors import HttpDoors
from unit.frontend.parts import Frontend, TurningLoop, application, served, texts

KIB, MIB = 1024, 1024 * 1024
LADDER = (KIB, 24 * KIB, 48 * KIB, 512 * KIB)
TOPS = [2 * MIB, pytest.param(60 * MIB, marks=pytest.mark.slow)]
FACTOR = 8.0
"""Largest growth of the time per byte, on a machine with other load."""
BASE_S = 2e-3
"""Cost of a request without a body, which is not part of the cost per byte."""
MAX_TURN_S = 0.010
"""Twice the limit of a turn, because the last step of a turn has an unknown length."""


COPY_S_PER_BYTE = 0.5e-9
"""A tensor of 60 MiB is cut out of its body by one copy."""

Make = Callable[[int], bytes]

OUTPUT = (TensorSpec("y", DataType.FP32, (-1, 1)),)
# The model has no replicas, so that an accepted query gets an error at once.
VERSIONS = [
    served(
        "long:1", Signature((TensorSpec("x", DataType.FP32, (-1, -1)),), OUTPUT), num_replicas=0
    ),
    served(
        "short:1", Signature((TensorSpec("x", DataType.FP32, (-1, 2)),), OUTPUT), num_replicas=0
    ),
    served("texts:1", Signature((texts("x", Content.TEXT, -1),), OUTPUT), num_replicas=0),
]


def repeated(begin: bytes, unit: bytes, end: bytes, size: int) -> bytes:
    return begin + (unit * (size // len(unit))).rstrip(b",") + end


def inputs(unit: bytes, datatype: str = "FP32", *, count: int = 0) -> Make:
    """Return an input whose data repeat a unit, by default as often as its shape says."""

    def make(size: int) -> bytes:
        shape = count or size // len(unit)
        head = b'{"inputs":[{"name":"x","datatype":"%b","shape":[1,%d],"data":['
        return repeated(head % (datatype.encode(), shape), unit, b"]}]}", size)

    return make


def member(name: bytes, unit: bytes) -> Make:
    return partial(repeated, b'{"inputs":[],"%b":[' % name, unit, b"]}")


def named(size: int) -> bytes:
    return b",".join(b'"%08d":1' % number for number in range(size // 13))


def batch(unit: bytes) -> Make:
    return partial(repeated, b'{"input_batch":[', unit, b"]}")


def doubled_brackets(size: int) -> bytes:
    return b'{"inputs":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}"


V2_LONG, V2_SHORT, V2_TEXTS = (f"/v2/models/{name}/infer" for name in ("long", "short", "texts"))
LONG, SHORT, TEXTS = (f"/{name}/predict" for name in ("long", "short", "texts"))

CASES: dict[str, tuple[str, Make]] = {
    "numbers": (V2_LONG, inputs(b"1,")),
    "floats": (V2_LONG, inputs(b"0.123456789,")),
    "rows": (V2_LONG, inputs(b"[1,2],", count=2)),
    "too many numbers": (V2_LONG, inputs(b"1,", count=2)),
    "too long for the model": (V2_SHORT, inputs(b"1,", count=2)),
    "empty arrays": (V2_LONG, inputs(b"[],")),
    "empty objects": (V2_LONG, inputs(b"{},")),
    "empty texts": (V2_TEXTS, inputs(b'"",', "BYTES")),
    "texts": (V2_TEXTS, inputs(b'"abcdefgh",', "BYTES")),
    "texts with brackets": (V2_TEXTS, inputs(b'"[[{",', "BYTES")),
    "texts with escapes": (V2_TEXTS, inputs(b'"\\"\\\\",', "BYTES")),
    "texts for numbers": (V2_LONG, inputs(b'"a",')),
    "empty inputs": (V2_LONG, partial(repeated, b'{"inputs":[', b"{},", b"]}")),
    "named inputs": (V2_LONG, partial(repeated, b'{"inputs":[', b'{"name":"x"},', b"]}")),
    "outputs": (V2_LONG, member(b"outputs", b'{"name":"y"},')),
    "unknown numbers": (V2_LONG, member(b"a", b"1,")),
    "unknown arrays": (V2_LONG, member(b"a", b"[],")),
    "unknown objects": (V2_LONG, member(b"a", b'{"a":[1]},')),
    "unknown text": (V2_LONG, partial(repeated, b'{"a":"', b"a", b'","inputs":[]}')),
    "backslashes": (V2_LONG, partial(repeated, b'{"a":"', b"\\\\", b'","inputs":[]}')),
    "unknown members": (V2_LONG, lambda size: b"{%b}" % named(size)),
    "parameters": (V2_LONG, lambda size: b'{"inputs":[],"parameters":{%b}}' % named(size)),
    "parameters of an input": (
        V2_LONG,
        lambda size: b'{"inputs":[{"name":"x","parameters":{%b}}]}' % named(size),
    ),
    "dimensions": (V2_LONG, partial(repeated, b'{"inputs":[{"name":"x","shape":[', b"9,", b"]}]}")),
    "brackets": (V2_LONG, doubled_brackets),
    "brackets without end": (V2_LONG, partial(repeated, b'{"inputs":', b"[", b"")),
    "objects without end": (V2_LONG, partial(repeated, b"", b'{"a":', b"")),
    "commas": (V2_LONG, partial(repeated, b'{"inputs":[1', b",,", b"1]}")),
    "spaces": (V2_LONG, partial(repeated, b'{"inputs":[', b" ", b"]}")),
    "a long id": (V2_LONG, partial(repeated, b'{"inputs":[],"id":"', b"i", b'"}')),
    "input of numbers": (LONG, partial(repeated, b'{"input":[', b"1,", b"]}")),
    "input by name": (LONG, partial(repeated, b'{"input":{"x":[', b"1,", b"]}}")),
    "input that is too long": (SHORT, partial(repeated, b'{"input":[', b"1,", b"]}")),
    "input of arrays": (LONG, partial(repeated, b'{"input":[', b"[],", b"]}")),
    "input of a text": (TEXTS, partial(repeated, b'{"input":"', b"a", b'"}')),
    "batch": (SHORT, batch(b"[1,2],")),
    "batch of empty arrays": (SHORT, batch(b"[],")),
    "batch of numbers": (SHORT, batch(b"1,")),
    "batch of objects": (SHORT, batch(b'{"x":[1,2]},')),
    "batch of two": (
        LONG,
        lambda size: b'{"input_batch":[[%b1],[%b1]]}' % ((b"1," * (size // 4),) * 2),
    ),
}


pytestmark = pytest.mark.timed


@pytest.fixture(scope="module", autouse=True)
def _no_collection() -> Iterator[None]:
    # Pauses of the collector depend on all objects of this process; a frontend freezes them.
    gc.disable()
    yield
    gc.enable()


def doors() -> HttpDoors:
    frontend = Frontend(
        *VERSIONS,
        applications=[
            application(name, f"{name}:1", slo_s=5) for name in ("long", "short", "texts")
        ],
        loop=TurningLoop,
        with_replicas=False,
        max_queue_size=10_000,
    )
    # Turns end by the time that the work takes, not by what else the machine does.
    frontend.dispatcher.clock = time.thread_time
    return HttpDoors(frontend, max_bytes=64 * MIB)


async def cost_of(
    client: HttpDoors, path: str, body: bytes, headers: dict[str, str]
) -> tuple[float, float, int]:
    """Return the time of a request, its longest turn, and its status."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            begin = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - begin)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    begin = time.thread_time()
    response = await client.post(path, body, headers)
    cost = time.thread_time() - begin
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    assert client.memory.num_bytes == 0
    assert len(response.text) < 10_000 or response.status_code == 200
    return cost, longest, response.status_code


async def climb(
    path: str, make: Make, top: int, encode: Callable[[bytes], bytes] | None = None, **headers: str
) -> None:
    """Send bodies of each size of the ladder, on a machine that may be busy."""
    client = doors()
    per_byte = 1e-6
    for size in (*LADDER, top):
        body = make(size)
        sent = encode(body) if encode else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        turn_s = MAX_TURN_S + COPY_S_PER_BYTE * size
        limit_s = BASE_S + FACTOR * per_byte * size
        cost = longest = inf
        for _ in while_patient():
            cost_s, turn, status = await cost_of(client, path, sent, named)
            assert status < 600
            assert status != 500
            cost, longest = min(cost, cost_s), min(longest, turn)
            if cost < limit_s and longest < turn_s:
                break
        assert cost < limit_s, (size, cost, per_byte)
        assert longest < turn_s, (size, longest)
        per_byte = max(cost, BASE_S) / size


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("kind", CASES)
async def test_the_cost_of_a_json_body_depends_on_its_size(kind, top):
    path, make = CASES[kind]
    await climb(path, make, top)


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
@pytest.mark.parametrize("kind", ["numbers", "empty arrays", "unknown arrays", "batch"])
async def test_the_cost_of_a_compressed_body_depends_on_its_decompressed_size(kind, coding, encode):
    path, make = CASES[kind]
    await climb(path, make, 16 * MIB, encode, content_encoding=coding)


@pytest.mark.parametrize("encode", [None, gzip.compress])
async def test_the_cost_of_a_binary_tensor_depends_on_its_size(encode):
    def make(size: int) -> bytes:
        return bytes(size // 4 * 4)

    coding = {"content_encoding": "gzip"} if encode else {}
    await climb(V2_LONG, make, 16 * MIB, encode, inference_header_content_length="0", **coding)


@pytest.mark.parametrize("member_bytes", [0, 1, 1000])
async def test_the_cost_of_a_gzip_body_of_many_members_depends_on_its_size(member_bytes):
    def make(size: int) -> bytes:
        part = gzip.compress(b" " * member_bytes, mtime=0)
        return part * (size // len(part)) + gzip.compress(b"{}")

    await climb(V2_LONG, make, 2 * MIB, content_encoding="gzip")
