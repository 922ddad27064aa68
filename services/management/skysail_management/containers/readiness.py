"""Tells by grpc.health.v1 whether a model server takes batches."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skysail_common.clock import Clock
from skysail_common.process.backoff import BackOff
from skysail_common.rpc.channels import KeepAlive, open_channel

START_LIMIT_S = 90.0
"""A model server that has never answered a health check for so long is taken for dead."""

SILENCE_LIMIT_S = 18.0
"""The same of one that has answered before, from the end of its stream on."""

_KEEP_ALIVE = KeepAlive(5.0, 2.0)
_ATTEMPT_S = 2.0
_RETRY_S = 0.05
_MAX_RETRY_S = 0.25


async def watch_readiness(endpoint: str, clock: Clock) -> AsyncIterator[bool | None]:
    """Yield True and False as the server becomes ready or not; None once it is taken for dead.

    Health is a stream of the server, so a change is seen at once and nothing is polled. When the
    stream breaks it is opened again. A server that stops without a word is not ready within 9 s,
    and taken for dead within 30 s.
    """
    last_sign, limit_s = clock(), START_LIMIT_S
    is_ready = False
    back_off = BackOff(_RETRY_S, _MAX_RETRY_S)
    while True:
        # A new channel each time: grpc delays the attempts of one that failed ever longer.
        async with open_channel(endpoint, keep_alive=_KEEP_ALIVE) as channel:
            responses = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=False
            )
            has_answered = False
            try:
                # A process that is stopped still has its connections made by the kernel.
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
            # While a stream stands nothing need come, so that its end is the last sign.
            last_sign, limit_s = clock(), SILENCE_LIMIT_S
        elif is_ready:
            is_ready = False
            yield False
        if clock() - last_sign > limit_s:
            yield None
            return
        await asyncio.sleep(back_off.next_s())
