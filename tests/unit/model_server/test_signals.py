import asyncio
import signal
import socket
from collections.abc import Iterator

import pytest

from skysail_model_server.stop_signals import stop_signal


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    far, near = socket.socketpair()
    with far, near:
        far.setblocking(False)
        yield far, near


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_only_a_signal_to_stop_stops(ends, number):
    far, near = ends
    stopping = asyncio.create_task(stop_signal(far))
    for user_signal in (signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1):
        near.send(bytes([user_signal]))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopping.done()
    near.send(bytes([signal.SIGCHLD, number, signal.SIGALRM]))
    await stopping
