"""`python -m benchmarks.peers`: installs every peer and checks its answers for each model."""

import math
import struct
import sys
import time

import grpc

from benchmarks.peers import MODELS, Peer, PeerFailed, PeerUnavailable, mlserver, triton
from benchmarks.peers.servers import open_channel
from skysail_protos.inference import grpc_service_pb2, grpc_service_pb2_grpc

_TIMEOUT_S = 10.0
# The content of the images does not matter; values are in the range of the digits, 0 to 16.
_ROWS = 2
_X = struct.pack(f"<{64 * _ROWS}f", *(index % 17 for index in range(64 * _ROWS)))


def check(peer: Peer, model: str) -> str:
    """Query a model of a peer once and return a description of the answer.

    Raises:
        PeerFailed: the answer is wrong.
    """
    request = grpc_service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="x", datatype="FP32", shape=[_ROWS, 64])
    request.raw_input_contents.append(_X)
    with open_channel(peer.grpc_endpoint) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            answer = stub.ModelInfer(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise PeerFailed(f"{model} does not answer: {error}") from error
    [output] = answer.outputs
    [content] = answer.raw_output_contents
    told = f"{output.name} {output.datatype} {list(output.shape)}"
    if model == "noop":
        is_right = told == f"output FP32 [{_ROWS}, 64]" and content == _X
    else:
        is_right = told == f"output INT64 [{_ROWS}]" and len(content) == 8 * _ROWS
        told += f" {list(struct.unpack(f'<{math.prod(output.shape)}q', content))}"
    if not is_right:
        raise PeerFailed(f"{model} answers {told}")
    return told


def main() -> int:
    """Return the number of peers that failed."""
    num_failed = 0
    for module in (triton, mlserver):
        try:
            module.install()
            begin = time.monotonic()
            with module.running() as peer:
                seconds = time.monotonic() - begin
                print(f"{peer.name}: ready after {seconds:.1f} s, {len(peer.pids())} processes")
                for model in MODELS:
                    print(f"{peer.name}: {model} answers {check(peer, model)}")
        except (PeerFailed, PeerUnavailable) as error:
            print(f"{module.NAME}: {error}", file=sys.stderr)
            num_failed += 1
    return num_failed


if __name__ == "__main__":
    sys.exit(main())
