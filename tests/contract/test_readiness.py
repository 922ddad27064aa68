import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from skysail_common.rpc.grpc_server import GrpcServer
from skysail_management.containers.readiness import SILENCE_LIMIT_S, START_LIMIT_S, watch_readiness
from skysail_testing.clock import FakeClock


class HealthServer:
    """A server that serves only its health."""

    def __init__(self, socket: Path) -> None:
        self.endpoint = f"unix:{socket}"
        self._grpc: GrpcServer | None = None

    async def start(self, is_serving: bool = False) -> None:
        self._grpc = GrpcServer([])
        self._grpc.bind(self.endpoint)
        await self._grpc.start()
        await self._grpc.set_serving(is_serving)

    async def set_serving(self, is_serving: bool) -> None:
        assert self._grpc is not None
        await self._grpc.set_serving(is_serving)

    async def stop(self) -> None:
        if self._grpc is not None:
            await self._grpc.grpc.stop(None)
            self._grpc = None


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[HealthServer]:
    server = HealthServer(tmp_path / "h.sock")
    yield server
    await server.stop()


async def next_change(changes: AsyncIterator[bool | None]) -> bool | None:
    return await asyncio.wait_for(anext(changes), 10)


async def after_silence(changes: AsyncIterator[bool | None], clock: FakeClock) -> bool | None:
    """Return the next change; the clock passes the limit between attempts."""
    change = asyncio.ensure_future(anext(changes))
    for _ in range(100):
        if (await asyncio.wait({change}, timeout=0.1))[0]:
            break
        clock.advance(START_LIMIT_S * 2)
    return await change


async def test_each_change_is_yielded(server: HealthServer, clock: FakeClock):
    await server.start()
    async with aclosing(watch_readiness(server.endpoint, clock)) as changes:
        assert await next_change(changes) is False
        await server.set_serving(True)
        assert await next_change(changes) is True
        await server.set_serving(False)
        assert await next_change(changes) is False


async def test_missing_server_is_awaited(server, clock: FakeClock):
    async with aclosing(watch_readiness(server.endpoint, clock)) as changes:
        first = asyncio.ensure_future(anext(changes))
        await asyncio.wait({first}, timeout=0.2)
        assert not first.done()
        await server.start(is_serving=True)
        assert await asyncio.wait_for(first, 10) in (False, True)


async def test_server_that_never_answers_counts_as_dead(server, clock: FakeClock):
    async with aclosing(watch_readiness(server.endpoint, clock)) as changes:
        assert await after_silence(changes, clock) is None
        with pytest.raises(StopAsyncIteration):
            await anext(changes)


async def test_stream_broken_after_a_long_silence_is_reopened(
    server: HealthServer, clock: FakeClock
):
    await server.start(is_serving=True)
    async with aclosing(watch_readiness(server.endpoint, clock)) as changes:
        assert await next_change(changes) is True
        # An hour without a change is no silence, because the stream stayed open.
        clock.advance(3600)
        second = asyncio.ensure_future(anext(changes))
        await server.stop()
        await server.start(is_serving=True)
        assert await asyncio.wait_for(second, 10) is not None
        await server.stop()
        seen = [change async for change in until_dead(changes, clock)]
        assert seen[-2:] == [False, None]


async def until_dead(
    changes: AsyncIterator[bool | None], clock: FakeClock
) -> AsyncIterator[bool | None]:
    """Yield the changes while the clock advances fast."""
    while True:
        yield (change := await after_silence(changes, clock))
        if change is None:
            return


async def test_stopped_process_counts_as_unready_then_dead(tmp_path: Path, clock: FakeClock):
    endpoint = f"unix:{tmp_path}/h.sock"
    program = f"""
import asyncio
from skysail_common.rpc.grpc_server import GrpcServer
async def serve():
    server = GrpcServer([])
    server.bind({endpoint!r})
    await server.start()
    await server.set_serving(True)
    await asyncio.Event().wait()
asyncio.run(serve())
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        async with aclosing(watch_readiness(endpoint, clock)) as changes:
            while not await next_change(changes):
                pass
            process.send_signal(signal.SIGSTOP)
            # The test runs in real time except for the silence after the end of the stream.
            assert await next_change(changes) is False
            process.send_signal(signal.SIGCONT)
            assert await next_change(changes) is True
            process.send_signal(signal.SIGSTOP)
            assert await next_change(changes) is False
            clock.advance(SILENCE_LIMIT_S + 1)
            assert await next_change(changes) is None
    finally:
        process.kill()
        process.wait()
        (tmp_path / "h.sock").unlink(missing_ok=True)
