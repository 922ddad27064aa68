"""The standard reflection service, for any transport of the contract."""

from collections.abc import Callable, Mapping, Sequence

from google.protobuf.message import DecodeError
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection, reflection_pb2

from skysail_common.errors import InvalidInput
from skysail_common.rpc.contract import Stream, StreamHandler

PATH = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"


def reflector(services: Sequence[str]) -> Callable[[bytes], bytes]:
    """Return a function that answers a message of the reflection stream; it raises `InvalidInput`."""
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    servicer = reflection.ReflectionServicer(names)

    def reflect(message: bytes) -> bytes:
        try:
            request = reflection_pb2.ServerReflectionRequest.FromString(message)
        except DecodeError as error:
            raise InvalidInput("cannot parse the message: not a ServerReflectionRequest") from error
        # Each request has exactly one answer, which does not depend on earlier requests.
        (response,) = servicer.ServerReflectionInfo(iter([request]), None)
        return bytes(response.SerializeToString())

    return reflect


def reflection_streams(services: Sequence[str]) -> Mapping[str, StreamHandler]:
    """Return the handlers of reflection for these services, by path."""
    reflect = reflector(services)

    async def serve(stream: Stream) -> None:
        async for message in stream:
            await stream.send(reflect(message))

    return {PATH: serve}
