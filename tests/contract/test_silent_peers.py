"""Keepalive pings detect a peer that vanishes without closing its connection."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import grpc.aio

from skysail_common.rpc.channels import KeepAlive, open_channel
from skysail_common.rpc.grpc_server import GrpcServer

# The shortest times that grpc allows; servers and clients use longer ones.
_QUICK = KeepAlive(1.0, 1.0)
_SOON_S = 15.0

_CLIENT = """
import asyncio, sys
from skysail_common.rpc.channels import open_channel

async def main():
    async with open_channel(sys.argv[1]) as channel:
        call = channel.stream_stream("/test.Test/Watch")()
        await call.write(b"x")
        await call.read()
        await asyncio.Event().wait()

asyncio.run(main())
"""


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails):
        return grpc.stream_stream_rpc_method_handler(self._watch)

    async def _watch(self, messages, context):
        try:
            async for message in messages:
                self.begun.set()
                yield message
        finally:
            self.ended.set()


async def test_a_server_ends_the_stream_of_a_frozen_client(tmp_path: Path):
    handlers = _Handlers()
    server = GrpcServer([], generic_handlers=[handlers], keep_alive=_QUICK)
    server.bind(f"unix:{tmp_path}/s.sock")
    await server.start()
    client = subprocess.Popen([sys.executable, "-c", _CLIENT, f"unix:{tmp_path}/s.sock"])
    try:
        await asyncio.wait_for(handlers.begun.wait(), 30)
        client.send_signal(signal.SIGSTOP)
        await asyncio.wait_for(handlers.ended.wait(), _SOON_S)
    finally:
        client.kill()
        client.wait()
        await server.stop(0)


async def test_a_live_client_keeps_its_stream(tmp_path: Path):
    handlers = _Handlers()
    server = GrpcServer([], generic_handlers=[handlers], keep_alive=_QUICK)
    server.bind(f"unix:{tmp_path}/s.sock")
    await server.start()
    async with open_channel(f"unix:{tmp_path}/s.sock") as channel:
        call = channel.stream_stream("/test.Test/Watch")()
        await call.write(b"x")
        assert await call.read() == b"x"
        # Several pings pass.
        await asyncio.wait({ended := asyncio.ensure_future(handlers.ended.wait())}, timeout=5)
        assert not ended.done()
        ended.cancel()
        await call.write(b"y")
        assert await call.read() == b"y"
        call.cancel()
    await server.stop(0)
