"""`python -m benchmarks.link [native|grpc]`: the cost of a batch on the link to a model server.

Batches of 16 rows are echoed over a unix socket, with two in flight and without a model. The other
process uses the transport like a model server.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import psutil
import uvloop

from benchmarks import models
from skysail_common.rpc.contract import Stream
from skysail_common.rpc.transports import TransportName, open_transport
from skysail_protos.v1 import model_server_pb2 as pb

PATH = "/benchmark.Link/Batches"
NUM_ROWS = 16
NUM_BATCHES = 10_000
_WARM_UP = 500
_DEPTH = 2
_MAX_BYTES = 64 * 1024 * 1024


def measure(transport: TransportName) -> dict[str, float]:
    """Return batches per second and the processor time of both sides in µs per batch."""
    command = [sys.executable, "-m", "benchmarks.link", transport]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300)
    found: dict[str, float] = json.loads(finished.stdout)
    return found


def _serve_native(address: str) -> None:
    from skysail_transport import MESSAGE, OPENED, Engine

    from skysail_common.rpc.native.outgoing import Outgoing

    engine = Engine(has_own_thread=True)
    outgoing = Outgoing(engine)
    engine.listen(address, streams=[PATH])
    print("ready", flush=True)
    while True:
        for event in engine.take(-1)[1]:
            if event[0] == OPENED:
                engine.accept(event[1])
            elif event[0] == MESSAGE:
                outgoing.send(event[1], event[2])
                outgoing.acknowledge(event[1], len(event[2]))
                outgoing.flush()


async def _serve_grpc(address: str) -> None:
    async def answer(stream: Stream) -> None:
        await stream.accept()
        async for message in stream:
            await stream.send(message)

    server = open_transport("grpc", _MAX_BYTES).server([], {}, {PATH: answer})
    server.bind(address)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


class _Sender:
    """Sends a batch for each echo, and measures the processor time of both sides."""

    def __init__(self, peer: psutil.Process) -> None:
        self.link: Any = None
        self.done = asyncio.get_running_loop().create_future()
        self._peer = peer
        self._num_back = 0
        self._begin: tuple[float, float, float] | None = None
        data = models.rows()[:NUM_ROWS].tobytes()
        self.batch = pb.Batch(id=1, rows=[1] * NUM_ROWS, inputs=[data]).SerializeToString()

    def _now(self) -> tuple[float, float, float]:
        times = self._peer.cpu_times()
        return asyncio.get_running_loop().time(), process_time(), times.user + times.system

    def link_received(self, message: bytes) -> None:
        self._num_back += 1
        if self._num_back == _WARM_UP:
            self._begin = self._now()
        if self._num_back == _WARM_UP + NUM_BATCHES and self._begin is not None:
            seconds, near_s, far_s = (
                end - begin for end, begin in zip(self._now(), self._begin, strict=True)
            )
            self.done.set_result(
                {
                    "batches_per_s": round(NUM_BATCHES / seconds, 1),
                    "frontend_us": round(1e6 * near_s / NUM_BATCHES, 1),
                    "model_server_us": round(1e6 * far_s / NUM_BATCHES, 1),
                }
            )
        elif not self.done.done():
            self.link.send(self.batch)

    def link_closed(self, reason: str, has_died: bool) -> None:
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))


async def _drive(name: TransportName) -> None:
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{Path(directory) / 'link'}"
        command = [sys.executable, "-m", "benchmarks.link", name, address]
        peer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert peer.stdout is not None
        peer.stdout.readline()
        transport = open_transport(name, _MAX_BYTES)
        sender = _Sender(psutil.Process(peer.pid))
        try:
            sender.link = await transport.connect(address, PATH, sender)
            for _ in range(_DEPTH):
                sender.link.send(sender.batch)
            print(json.dumps(await asyncio.wait_for(sender.done, 120)))
        finally:
            sender.link.close()
            transport.close()
            peer.kill()
            peer.wait()


def main(name: str, address: str | None = None) -> None:
    """Drive the link; with an address, serve the other side instead."""
    if address is None:
        uvloop.run(_drive("native" if name == "native" else "grpc"))
    elif name == "native":
        _serve_native(address)
    else:
        uvloop.run(_serve_grpc(address))


if __name__ == "__main__":
    main(*sys.argv[1:])
