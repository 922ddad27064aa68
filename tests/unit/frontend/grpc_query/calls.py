"""Calls of the query service, for the tests of its door."""

import numpy as np

from skysail_common.clock import NEVER
from skysail_common.errors import SkysailError
from skysail_common.rpc.messages import tensor_from_proto, tensor_to_proto
from skysail_common.tensors import from_numpy, to_numpy
from skysail_frontend.ingress.grpc_query import SERVICE, GrpcQuery, QueryIds
from skysail_frontend.ingress.stream_session import Streams
from skysail_protos.v1 import query_pb2 as pb
from skysail_testing.fake_calls import FakeCall
from unit.frontend.parts import Frontend


def request_of(
    target: str = "m", value: object = (1.0, 2.0, 3.0), name: str = "x", **fields: object
) -> pb.PredictRequest:
    tensor = from_numpy(name, np.array([value]))
    return pb.PredictRequest(target=target, inputs=[tensor_to_proto(tensor)], **fields)


def door_of(frontend: Frontend) -> GrpcQuery:
    return GrpcQuery(frontend.dispatcher, QueryIds(), Streams(frontend.dispatcher, 10))


def ask(
    frontend: Frontend,
    request: pb.PredictRequest | bytes,
    deadline: float = NEVER,
    arrival: float | None = None,
) -> FakeCall:
    """Make a call as a transport does, and run one turn of the loop."""
    door = door_of(frontend)
    message = request if isinstance(request, bytes) else request.SerializeToString()
    call = FakeCall(f"/{SERVICE}/Predict", message, deadline, frontend.clock())
    if arrival is not None:
        call.arrival = arrival
    try:
        door.unary[call.method](call)
    except SkysailError as error:
        call.fail(error)
    frontend.loop.turn()
    return call


def answer_of(call: FakeCall) -> pb.PredictResponse:
    assert call.error is None, call.error
    return pb.PredictResponse.FromString(call.answer)


def values(response: pb.PredictResponse) -> dict[str, list]:
    tensors = map(tensor_from_proto, response.outputs)
    return {tensor.name: to_numpy(tensor).tolist() for tensor in tensors}


def refusal(frontend: Frontend, request: pb.PredictRequest | bytes) -> SkysailError:
    call = ask(frontend, request)
    assert call.error is not None
    assert frontend.dispatcher.num_unsettled == 0
    return call.error
