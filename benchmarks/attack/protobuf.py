"""Fuzzer: well-formed, odd and broken messages to every RPC of the query port."""

from collections.abc import Callable
from random import Random

from benchmarks.attack.cases import Case
from benchmarks.attack.honest import infer_request
from benchmarks.attack.models import APPLICATION, question
from benchmarks.attack.mutations import mutated
from benchmarks.attack.protobuf_structures import INFER, METADATA, PREDICT, PREDICT_STREAM, STREAM
from benchmarks.attack.wire import block, scalar
from skysail.query_inputs import read_inputs
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.v1 import query_pb2

_SERVICE = INFER.rpartition("/")[0]
_ODD_SIZES = (-1, 0, 1, 3, 10_001, 2**31, 2**63 - 1, -(2**63))
_ODD_NAMES = ("", "x", "é", "a\0b", "../..", "x" * 3000, "linear", "difference", "shout")
_TIMEOUTS_S = (0.001, 0.05, 20.0, 20.0, 20.0)

_ANSWERS = frozenset({
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
})  # fmt: skip


def case(rng: Random) -> Case:
    """Return a message for one of the RPCs."""
    method, make = rng.choice(_METHODS)
    body = make(rng)
    if rng.random() < 0.7:
        body = mutated(rng, body)
    if rng.random() < 0.2:
        body += b"".join(rng.choices(_EXTRA, k=rng.randrange(1, 40)))
    is_compressed = rng.random() < 0.3
    timeout_s = rng.choice(_TIMEOUTS_S)
    # A request may contain a short timeout, which may end before the answer.
    answers = _ANSWERS | {"DEADLINE_EXCEEDED"}
    return Case(
        f"{method.rpartition('/')[2]}, {len(body)} bytes",
        lambda sender: sender.call(
            method, body, is_compressed=is_compressed, timeout_s=timeout_s
        ),
        answers if timeout_s < 1 or b"timeout" in body or method == PREDICT else _ANSWERS,
    )  # fmt: skip


def _infer(rng: Random) -> bytes:
    request = infer_request(rng, question(rng))
    for _ in range(rng.choice((0, 1, 1, 3))):
        _distort(rng, request)
    return request.SerializeToString()


def _distort(rng: Random, request: oip.ModelInferRequest) -> None:
    tensor = rng.choice(request.inputs) if request.inputs else request.inputs.add()
    change = rng.randrange(10)
    if change == 0:
        tensor.shape[:] = rng.choices(_ODD_SIZES, k=rng.choice((0, 1, 2, 9)))
    elif change == 1:
        tensor.datatype = rng.choice(("FP32", "INT8", "BYTES", "BF16", "BOOL", "fp64", ""))
    elif change == 2:
        tensor.name = rng.choice(_ODD_NAMES)
    elif change == 3:
        request.inputs.add().CopyFrom(tensor)
    elif change == 4:
        request.raw_input_contents.append(rng.randbytes(rng.choice((0, 1, 24, 5000))))
    elif change == 5:
        tensor.contents.int_contents.extend(rng.choices(range(-300, 300), k=rng.choice((3, 999))))
    elif change == 6:
        request.parameters[rng.choice(("timeout", "priority", "sequence_id", "triton_x", ""))
                           ].int64_param = rng.choice((-1, 0, 1, 1000, 2**62))  # fmt: skip
    elif change == 7:
        request.outputs.add(name=rng.choice(_ODD_NAMES))
    elif change == 8:
        request.model_name = rng.choice(_ODD_NAMES)
    else:
        tensor.contents.bytes_contents.append(rng.randbytes(rng.choice((0, 3, 3000))))


def _predict(rng: Random) -> bytes:
    asked = question(rng)
    row = {name: array[0] for name, array in asked.inputs.items()}
    target = rng.choice((asked.model, asked.model, APPLICATION, *_ODD_NAMES))
    request = query_pb2.PredictRequest(target=target, inputs=read_inputs(row).tensors)
    if rng.random() < 0.3:
        request.timeout.seconds = rng.choice((-1, 0, 1, 2**40))
        request.timeout.nanos = rng.choice((-1, 0, 999_999_999, 2**31 - 1))
    if rng.random() < 0.3:
        request.inputs[0].shape[:] = rng.choices(_ODD_SIZES, k=rng.choice((0, 1, 2, 9)))
    if rng.random() < 0.3:
        # Open enumerations hold any number.
        request.inputs[0].ParseFromString(scalar(2, rng.choice((0, 1, 7, 12, 13, 14, 99))))
    return request.SerializeToString()


def _model(rng: Random) -> bytes:
    return block(1, rng.choice(_ODD_NAMES).encode()) + block(2, rng.choice((b"", b"1", b"99")))


def _anything(rng: Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 10, 300, 20_000)))


_METHODS: list[tuple[str, Callable[[Random], bytes]]] = [
    *[(INFER, _infer)] * 4,
    *[(STREAM, _infer)] * 3,
    *[(PREDICT, _predict)] * 4,
    *[(PREDICT_STREAM, _predict)] * 3,
    (METADATA, _model),
    (f"{_SERVICE}/ModelReady", _model),
    (f"{_SERVICE}/ServerLive", _anything),
    (f"{_SERVICE}/ServerReady", _anything),
    (f"{_SERVICE}/ServerMetadata", _anything),
    (f"{_SERVICE}/NoSuchMethod", _infer),
    (INFER, _anything),
    ("/grpc.health.v1.Health/Check", _model),
]
_EXTRA = (
    scalar(100, 1), block(100), block(4), block(5), block(6), block(7), block(5, block(5)),
    block(7, bytes(24)), block(1, b"shout"), b"\x7b", b"\x7c", b"\x0a" + b"\xff" * 20,
)  # fmt: skip
