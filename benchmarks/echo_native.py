"""The echo of the native transport, which parses and builds messages like a servicer."""

import uvloop

from benchmarks.echo import STREAM, UNARY, serve_until_left
from skysail_common.rpc.contract import Call, Stream
from skysail_common.rpc.native.transport import NativeTransport
from skysail_protos.inference import grpc_service_pb2 as pb

_MAX_BYTES = 64 * 1024 * 1024


def _unary(call: Call) -> None:
    call.reply(_answer(call.message))


async def _stream(stream: Stream) -> None:
    async for message in stream:
        await stream.send(_answer(message))


def _answer(message: bytes) -> bytes:
    request = pb.ModelInferRequest.FromString(message)
    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    response.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
    response.raw_output_contents.append(request.raw_input_contents[0])
    return response.SerializeToString()


async def _serve() -> None:
    transport = NativeTransport(_MAX_BYTES)
    server = transport.server(["benchmark.Echo"], {UNARY: _unary}, {STREAM: _stream})
    port = server.bind("127.0.0.1:0")
    await server.start()
    await serve_until_left(port)
    transport.close()


if __name__ == "__main__":
    uvloop.run(_serve())
