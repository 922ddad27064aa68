"""The cost of a request grows no faster than its size, and the worst requests are refused early."""

import gc
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import pytest

from skysail_common.errors import SkysailError
from skysail_common.rpc.contract import Metadata, UnaryHandler
from skysail_common.rpc.statuses import handle
from skysail_common.rpc.varints import varint
from skysail_common.tensors import Content, DataType, Signature, TensorSpec
from skysail_frontend.core.batch import QueryOutputs
from skysail_frontend.ingress.grpc_inference import SERVICE as INFERENCE
from skysail_frontend.ingress.grpc_inference import GrpcInference
from skysail_frontend.ingress.grpc_query import SERVICE as QUERY
from skysail_frontend.ingress.grpc_query import GrpcQuery, QueryIds
from skysail_frontend.ingress.request_parser import MAX_STRUCTURE_BYTES
from skysail_frontend.ingress.stream_session import Streams
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_protos.v1 import tensors_pb2
from skysail_testing.costs import least_cost
from skysail_testing.fake_calls import FakeCall
from unit.frontend.parts import Frontend, served, texts

KIB, MIB = 1024, 1024 * 1024
LADDER = (KIB, 32 * KIB, MAX_STRUCTURE_BYTES - KIB, MIB, 15 * MAX_STRUCTURE_BYTES)
TOP = 64 * MIB
FACTOR = 8.0
"""Largest growth of the time per byte, on a machine with other load."""
OVERHEAD_S = 50e-6
COPIES_S = 3e-9
"""Processor time of a byte that is copied to memory new to the process, page faults included."""
MAX_S = 0.05
"""Processor time of the worst request."""

OUTPUT = (TensorSpec("y", DataType.FP32, (-1, 1)),)
MODELS = [
    served(f"{datatype.name.lower()}:1", Signature((TensorSpec("x", datatype, (-1, -1)),), OUTPUT))
    for datatype in (DataType.BOOL, DataType.INT8, DataType.INT64, DataType.FP32, DataType.FP64)
]
MODELS.append(served("bytes:1", Signature((texts("x", Content.TEXT, -1),), OUTPUT)))

Make = Callable[[int], bytes]


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def repeated(unit: bytes, size: int) -> bytes:
    return unit * (size // len(unit))


def after_name(make: Make, model: str = "fp32") -> Make:
    return lambda size: field(1, model.encode()) + make(size)


def typed(datatype: str, contents_field: int, element: bytes, *, packed: bool = True) -> Make:
    """Return an input whose shape has the number of elements."""

    def make(size: int) -> bytes:
        count = size // len(element)
        contents = element * count
        if packed:
            contents = field(contents_field, contents)
        tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype=datatype)
        tensor.shape[:] = [1, count]
        return field(1, datatype.lower().encode()) + field(
            5, tensor.SerializeToString() + field(5, contents)
        )

    return make


def raw(datatype: str, element: bytes) -> Make:
    def make(size: int) -> bytes:
        request = pb.ModelInferRequest(model_name=datatype.lower())
        count = size // len(element)
        request.inputs.add(name="x", datatype=datatype, shape=[1, count])
        return request.SerializeToString() + field(7, element * count)

    return make


def shape(size: int) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32")
    return field(5, tensor.SerializeToString() + field(3, b"\x01" * size))


INFER: dict[str, Make] = {
    "raw data": raw("FP32", bytes(4)),
    "raw empty texts": raw("BYTES", bytes(4)),
    "raw texts": raw("BYTES", b"\x04\0\0\0text"),
    "one raw text": lambda size: raw("BYTES", (size - 4).to_bytes(4, "little") + bytes(size - 4))(
        size
    ),
    "typed floats": typed("FP32", 6, bytes(4)),
    "typed doubles": typed("FP64", 7, bytes(8)),
    "typed bools": typed("BOOL", 1, b"\x01"),
    "typed bytes": typed("INT8", 2, b"\x01"),
    "typed integers": typed("INT64", 3, b"\x01"),
    "typed negative integers": typed("INT64", 3, b"\xff" * 9 + b"\x01"),
    "integers one by one": typed("INT64", 3, b"\x18\x01", packed=False),
    "empty texts": typed("BYTES", 8, b"\x42\x00", packed=False),
    "texts": typed("BYTES", 8, b"\x42\x03abc", packed=False),
    "empty inputs": after_name(partial(repeated, b"\x2a\x00")),
    "named inputs": after_name(partial(repeated, b"\x2a\x03\x0a\x01x")),
    "empty outputs": after_name(partial(repeated, b"\x32\x00")),
    "known outputs": after_name(partial(repeated, b"\x32\x03\x0a\x01y")),
    "empty parameters": after_name(partial(repeated, b"\x22\x00")),
    "named parameters": after_name(
        lambda size: b"".join(
            field(4, field(1, b"%07d" % number)) for number in range(min(size, 2 * MIB) // 11)
        )
    ),
    "parameters of an input": after_name(
        lambda size: field(5, repeated(b"\x22\x03\x0a\x01p", size))
    ),
    "empty raw contents": after_name(partial(repeated, b"\x3a\x00")),
    "dimensions": after_name(shape),
    "unknown numbers": after_name(partial(repeated, b"\x78\x01")),
    "unknown texts": after_name(partial(repeated, b"\x7a\x01a")),
    "unknown text": after_name(lambda size: field(15, bytes(size))),
    "groups": after_name(partial(repeated, b"\x7b\x7c")),
    "nested groups": after_name(lambda size: b"\x7b" * size),
    "a length without end": lambda size: b"\x0a" + b"\xff" * size,
    "a tag without end": lambda size: b"\xff" * size,
    "a long name": lambda size: field(1, b"n" * size),
    "a long id": lambda size: field(3, b"i" * size) + raw("FP32", bytes(4))(4),
    "a long id that is no text": lambda size: field(3, b"\xff" * size) + raw("FP32", bytes(4))(4),
    "ids": lambda size: field(1, b"fp32") + repeated(b"\x1a\x00", size) + field(7, b""),
    "a long parameter": after_name(
        lambda size: field(4, field(1, b"p") + field(2, field(3, b"x" * size)))
    ),
}


def tensor_of(datatype: DataType, *dims: int, data: bytes) -> bytes:
    kind = tensors_pb2.DataType.ValueType(datatype)
    return tensors_pb2.Tensor(name="x", datatype=kind, shape=dims, data=data).SerializeToString()


def after_target(make: Make, target: str = "fp32") -> Make:
    return lambda size: field(2, target.encode()) + make(size)


PREDICT: dict[str, Make] = {
    "data": after_target(
        lambda size: field(4, tensor_of(DataType.FP32, 1, size // 4, data=bytes(size)))
    ),
    "widened data": after_target(
        lambda size: field(4, tensor_of(DataType.INT8, 1, size, data=bytes(size))), "fp64"
    ),
    "empty texts": after_target(
        lambda size: field(4, tensor_of(DataType.BYTES, 1, size // 4, data=bytes(size))), "bytes"
    ),
    "texts for numbers": after_target(
        lambda size: field(4, tensor_of(DataType.BYTES, 1, size // 4, data=bytes(size)))
    ),
    "empty inputs": after_target(partial(repeated, b"\x22\x00")),
    "dimensions": after_target(lambda size: field(4, field(3, b"\x01" * size))),
    "unknown numbers": after_target(partial(repeated, b"\x78\x01")),
    "a long name": lambda size: field(2, b"n" * size),
    "a long id": lambda size: field(1, b"i" * size),
}


def doors(frontend: Frontend) -> dict[str, UnaryHandler]:
    streams = Streams(frontend.dispatcher, 10)
    infer = GrpcInference(frontend.dispatcher, "s", lambda: True, streams)
    return {**infer.unary, **GrpcQuery(frontend.dispatcher, QueryIds(), streams).unary}


def cost_of(handler: UnaryHandler, path: str, message: bytes) -> float:
    call = FakeCall(path, message)
    begin = time.thread_time()
    try:
        handler(call)
    except SkysailError as error:
        call.fail(error)
    cost = time.thread_time() - begin
    assert call.error is None or len(call.error.message) < 1000
    return cost


def cost_twice(handler: UnaryHandler, path: str, message: bytes) -> float:
    """Return the larger cost of two: the first request leaves a plan, which the second finds."""
    return max(cost_of(handler, path, message) for _ in range(2))


def climb(path: str, make: Make) -> None:
    """Send messages of each size of the ladder, on a machine that may be busy."""
    handler = doors(Frontend(*MODELS, with_replicas=False))[path]
    per_byte = MAX_S
    for size in (*LADDER, TOP):
        message = make(size)
        limit = min(MAX_S, FACTOR * per_byte * size)
        cost = least_cost(partial(cost_twice, handler, path, message), limit)
        assert cost < limit
        # The cost of a small message is overhead, and that of a large one the memory of its copies.
        per_byte = max(cost / size, OVERHEAD_S / size, COPIES_S)


@pytest.mark.timed
@pytest.mark.parametrize("kind", INFER)
def test_the_cost_of_a_request_of_the_open_inference_protocol_depends_on_its_size(kind):
    climb(f"/{INFERENCE}/ModelInfer", INFER[kind])


@pytest.mark.timed
@pytest.mark.parametrize("kind", PREDICT)
def test_the_cost_of_a_query_depends_on_its_size(kind):
    climb(f"/{QUERY}/Predict", PREDICT[kind])


class ForgetfulCall(FakeCall):
    """A call that keeps neither its answer nor its error, like calls of transports."""

    def reply(self, message: bytes, trailers: Metadata = ()) -> None:
        self._cancel = None

    def fail(self, error: SkysailError, trailers: Metadata = ()) -> None:
        self._cancel = None


INFER_KINDS = (
    "raw data",
    "typed floats",
    "integers one by one",
    "empty texts",
    "empty inputs",
    "empty raw contents",
    "a long name",
    "a long id",
    "a long parameter",
    "a length without end",
)


@pytest.mark.parametrize(
    ("path", "make"),
    [
        *((f"/{INFERENCE}/ModelInfer", INFER[kind]) for kind in INFER_KINDS),
        (f"/{QUERY}/Predict", PREDICT["widened data"]),
        (f"/{QUERY}/Predict", PREDICT["empty inputs"]),
    ],
    ids=[*INFER_KINDS, "widened data", "empty inputs of a query"],
)
def test_a_finished_request_leaves_no_memory(path, make):
    frontend = Frontend(*MODELS, function=lambda _: QueryOutputs([bytes(4)], [(1, 1)]))
    handler = doors(frontend)[path]
    messages = [make(size) for size in (MAX_STRUCTURE_BYTES - KIB, 2 * MAX_STRUCTURE_BYTES)]

    def ask() -> None:
        for message in messages:
            # A copy, as another message of the same bytes is.
            handle(handler, ForgetfulCall(path, bytes(bytearray(message))))
            frontend.loop.turn()
        for replica in frontend.replicas:
            replica.sent.clear()

    ask()
    gc.collect()
    # Memory must not wait for the garbage collector, which runs late.
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(3):
            ask()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert kept < MAX_STRUCTURE_BYTES / 2


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
@pytest.mark.parametrize("unit", [b"\x7a\x00", b"\x78\x01", b"\x0a\x01m", b"\x7b\x7c"])
def test_the_cost_of_a_metadata_request_depends_on_its_size(method, unit):
    climb(f"/{INFERENCE}/{method}", partial(repeated, unit))
