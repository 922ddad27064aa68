"""The readiness of a model server, watched by grpc.health.v1."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.clock import Clock
from skysail_common.process.backoff import BackOff
from skysail_common.rpc.channels import KeepAlive, open_channel

START_LIMIT_S = 90.0
"""A model server that never answered a health check for this long is considered dead."""

SILENCE_LIMIT_S = 18.0
"""The same limit for a model server that answered before, from the end of its stream."""

_KEEP_ALIVE = KeepAlive(5.0, 2.0)
_ATTEMPT_S = 2.0
_RETRY_S = 0.05
_MAX_RETRY_S = 0.25


async def watch_readiness(endpoint: str, clock: Clock) -> AsyncIterator[bool | None]:
    """Yield True or False when the readiness changes, and None when the server is dead.

    The server streams its health, so that a change arrives at once and nothing is polled. A broken
    stream is reopened. A server that stops silently counts as not ready within 9 s, and as dead
    within 30 s.
    """
    last_sign, limit_s = clock(), START_LIMIT_S
    is_ready = False
    back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
    while True:
        # Each attempt opens a new channel, because gRPC lengthens the reconnect backoff of an old
        # one.
        async with open_channel(endpoint, keep_alive=_KEEP_ALIVE) as channel:
            responses = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=False
            )
            has_answered = False
            try:
                # The kernel accepts connections for a stopped process too, so that the read needs a
                # timeout.
                response = await asyncio.wait_for(responses.read(), _ATTEMPT_S)
                while isinstance(response, health_pb2.HealthCheckResponse):
                    has_answered = True
                    back_off.reset()
                    is_ready = response.status == health_pb2.HealthCheckResponse.SERVING
                    yield is_ready
                    response = await responses.read()
            except (grpc.aio.AioRpcError, asyncio.TimeoutError):
                pass
            finally:
                responses.cancel()
        if has_answered:
            # An open stream may be silent, so that its end is the last sign of life.
            last_sign, limit_s = clock(), SILENCE_LIMIT_S
        elif is_ready:
            is_ready = False
            yield False
        if clock() - last_sign > limit_s:
            yield None
            return
        await asyncio.sleep(back_off.next_s())
