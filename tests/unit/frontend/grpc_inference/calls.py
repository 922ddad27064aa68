"""Calls of the gRPC inference protocol, for the tests of its door."""

import numpy as np
from google.protobuf.message import Message

from skysail_common.clock import NEVER
from skysail_common.errors import SkysailError
from skysail_common.tensors import DataType, TensorSpec
from skysail_frontend.ingress.grpc_inference import SERVICE, GrpcInference
from skysail_frontend.ingress.stream_session import Streams
from skysail_protos.inference import grpc_service_pb2 as pb
from skysail_testing.clock import FakeClock
from skysail_testing.fake_calls import FakeCall
from unit.frontend.parts import Frontend, served, signature_of

simple = served(
    "simple:1",
    signature_of(
        TensorSpec("INPUT0", DataType.INT32, (-1, 16)),
        TensorSpec("INPUT1", DataType.INT32, (-1, 16)),
    ),
)


def door_of(
    frontend: Frontend, *, is_ready: bool = True, has_triton_errors: bool = False
) -> GrpcInference:
    return GrpcInference(
        frontend.dispatcher,
        "our name",
        lambda: is_ready,
        Streams(frontend.dispatcher, 10),
        has_triton_errors=has_triton_errors,
    )


def ask(
    frontend: Frontend,
    method: str,
    request: Message | bytes,
    *,
    deadline: float = NEVER,
    is_ready: bool = True,
) -> FakeCall:
    """Make a call as a transport does, and run one turn of the loop."""
    door = door_of(frontend, is_ready=is_ready)
    message = request if isinstance(request, bytes) else request.SerializeToString()
    call = FakeCall(f"/{SERVICE}/{method}", message, deadline, frontend.clock())
    try:
        door.unary[call.method](call)
    except SkysailError as error:
        call.fail(error)
    frontend.loop.turn()
    return call


def infer(frontend: Frontend, request: pb.ModelInferRequest, **options) -> pb.ModelInferResponse:
    call = ask(frontend, "ModelInfer", request, **options)
    assert call.error is None, call.error
    return pb.ModelInferResponse.FromString(call.answer)


def refusal(frontend: Frontend, request: pb.ModelInferRequest) -> SkysailError:
    call = ask(frontend, "ModelInfer", request)
    assert call.error is not None
    assert frontend.dispatcher.num_unsettled == 0
    return call.error


def request_of(model: str = "m", rows: int = 1, **fields) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype="FP64", shape=[rows, 3])
    request.raw_input_contents.append(np.arange(3.0 * rows).tobytes())
    return request


def simple_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="simple")
    for name in ("INPUT0", "INPUT1"):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        request.raw_input_contents.append(np.arange(16, dtype="<i4").tobytes())
    return request


class OneStream:
    """A stream that sends some messages, ends, and keeps the answers."""

    method = f"/{SERVICE}/ModelStreamInfer"
    deadline = NEVER
    arrival = FakeClock.BEGIN

    def __init__(self, *messages: bytes) -> None:
        self._messages = messages
        self.answers: list[pb.ModelStreamInferResponse] = []

    def metadata(self) -> dict[str, str | bytes]:
        return {}

    async def __aiter__(self):
        for message in self._messages:
            yield message

    async def send(self, message: bytes) -> None:
        self.answers.append(pb.ModelStreamInferResponse.FromString(message))
