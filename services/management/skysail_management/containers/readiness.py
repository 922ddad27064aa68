"""Tells by grpc.health.v1 whether a model server takes batches."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.back_off import BackOff
from skysail_common.clock import Clock
from skysail_common.rpc.channels import open_channel

SILENCE_LIMIT_S = 90.0
"""A model server that answers no health check for so long is taken for dead."""

_RETRY_S = 0.05
_MAX_RETRY_S = 0.25


async def watch_readiness(endpoint: str, clock: Clock) -> AsyncIterator[bool | None]:
    """Yield True and False as the server becomes ready or not; None once it is taken for dead.

    Health is a stream of the server, so a change is seen at once and nothing is polled. When the
    stream breaks it is opened again.
    """
    last_sign = clock()
    back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
    while True:
        # A new channel each time: grpc delays the attempts of one that failed ever longer.
        async with open_channel(endpoint) as channel:
            responses = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=False
            )
            has_answered = False
            try:
                async for response in responses:
                    has_answered = True
                    back_off.reset()
                    yield response.status == health_pb2.HealthCheckResponse.SERVING
            except grpc.aio.AioRpcError:
                pass
            finally:
                responses.cancel()
        if has_answered:
            # While a stream stands nothing need come, so that its end is the last sign.
            last_sign = clock()
        if clock() - last_sign > SILENCE_LIMIT_S:
            yield None
            return
        await asyncio.sleep(back_off.next_s())
