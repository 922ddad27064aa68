"""Health, reflection, addresses and shutdown of the servers of every transport."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from skysail_common.clock import MONOTONIC
from skysail_common.errors import FailedPrecondition
from skysail_common.rpc.contract import Call, Stream
from skysail_common.rpc.transports import open_transport
from skysail_testing.transports import (
    LIMIT_BYTES,
    SERVICE,
    STREAM,
    UNARY,
    WAIT_S,
    calling,
    echo,
    failure,
    serving,
    unary_call,
)


async def test_health_reports_serving(transport):
    async with serving(transport, echo) as (server, endpoint), calling(endpoint) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        async def status(service: str = SERVICE) -> int:
            request = health_pb2.HealthCheckRequest(service=service)
            return int((await stub.Check(request, timeout=WAIT_S)).status)

        assert await status() == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_serving(True)
        assert await status() == health_pb2.HealthCheckResponse.SERVING
        assert await status("") == health_pb2.HealthCheckResponse.SERVING
        unknown = await failure(stub.Check(health_pb2.HealthCheckRequest(service="unknown")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(transport):
    async with serving(transport, echo) as (server, endpoint), calling(endpoint) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=WAIT_S)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await server.set_serving(True)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_reflection_lists_the_services(transport):
    async with serving(transport, echo) as (_, endpoint), calling(endpoint) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(timeout=WAIT_S)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {each.name for each in (await call.read()).list_services_response.service}
        call.cancel()
    assert {SERVICE, "grpc.reflection.v1alpha.ServerReflection", "grpc.health.v1.Health"} <= listed


async def test_an_address_in_use_is_refused(transport):
    async with serving(transport, echo) as (_, endpoint):
        other = transport.server([SERVICE], {UNARY: echo}, {})
        with pytest.raises(FailedPrecondition, match=f"cannot listen on {endpoint}"):
            other.bind(endpoint)


async def test_a_stopping_server_answers_calls_in_flight(transport):
    calls: list[Call] = []
    arrived = asyncio.Event()

    def handler(call: Call) -> None:
        calls.append(call)
        arrived.set()

    async with serving(transport, handler) as (server, endpoint), calling(endpoint) as channel:
        answer = asyncio.ensure_future(unary_call(channel)(b"", timeout=WAIT_S))
        await asyncio.wait_for(arrived.wait(), WAIT_S)
        stopping = asyncio.create_task(server.stop(WAIT_S))
        await asyncio.sleep(0.05)
        calls[0].reply(b"last")
        assert await answer == b"last"
        await asyncio.wait_for(stopping, WAIT_S)


async def test_calls_and_streams_end_after_the_stop_timeout(transport):
    arrived, cancelled, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def handler(call: Call) -> None:
        call.on_cancel(cancelled.set)
        arrived.set()

    async def endless(stream: Stream) -> None:
        await stream.accept()
        try:
            async for _ in stream:
                pass
        finally:
            ended.set()

    async with serving(transport, handler, endless) as (server, endpoint):
        async with calling(endpoint) as channel:
            answer = asyncio.ensure_future(unary_call(channel)(b"", timeout=WAIT_S))
            stream = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await asyncio.wait_for(stream.initial_metadata(), WAIT_S)
            await asyncio.wait_for(arrived.wait(), WAIT_S)
            await asyncio.wait_for(server.stop(0.1), WAIT_S)
            assert (await failure(answer)).code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.wait_for(cancelled.wait(), WAIT_S)
            await asyncio.wait_for(ended.wait(), WAIT_S)


@pytest.mark.parametrize("kind", ["grpc", "native"])
async def test_an_added_server_gets_calls_of_a_long_lived_client(kind: str):
    if kind == "native":
        pytest.importorskip("skysail_transport", reason="native transport is not installed")
    num_calls = dict.fromkeys("ab", 0)
    slow: list[Call] = []

    def answering(name: str) -> Callable[[Call], None]:
        def handler(call: Call) -> None:
            num_calls[name] += 1
            if call.message == b"slow":
                slow.append(call)
            else:
                call.reply(call.message)

        return handler

    async with AsyncExitStack() as stack:
        port = 0
        channel = call = None
        for name in num_calls:
            transport = open_transport(kind, LIMIT_BYTES, max_connection_age_s=0.1)
            stack.callback(transport.close)
            server = transport.server([SERVICE], {UNARY: answering(name)}, {}, shares_port=True)
            port = server.bind(f"127.0.0.1:{port}")
            await server.start()
            stack.push_async_callback(server.stop, 0.1)
            if channel is None:
                channel = await stack.enter_async_context(calling(f"127.0.0.1:{port}"))
                call = unary_call(channel)(b"slow", timeout=WAIT_S)
                while not slow:
                    await unary_call(channel)(b"x", timeout=WAIT_S)
        assert channel is not None
        assert call is not None
        # The kernel assigns each new connection to a random server.
        end = MONOTONIC() + WAIT_S
        while not num_calls["b"] and MONOTONIC() < end:
            assert await unary_call(channel)(b"x", timeout=WAIT_S) == b"x"
        assert num_calls["b"]
        slow[0].reply(b"done")
        assert await asyncio.wait_for(call, WAIT_S) == b"done"
