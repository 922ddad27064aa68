import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from skysail_model_server.stop_signals import STOP_SIGNALS, StopSignals, stop_signal


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    far, near = socket.socketpair()
    with far, near:
        far.setblocking(False)
        yield far, near


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_only_a_stop_signal_stops(ends, number):
    far, near = ends
    stopping = asyncio.create_task(stop_signal(far))
    for user_signal in (signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1):
        near.send(bytes([user_signal]))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopping.done()
    near.send(bytes([signal.SIGCHLD, number, signal.SIGALRM]))
    await stopping


@pytest.fixture
def at_fork(monkeypatch) -> dict[str, Callable[[], None]]:
    """Return the fork handlers, which cannot be removed once they are registered."""
    found: dict[str, Callable[[], None]] = {}
    monkeypatch.setattr(os, "register_at_fork", lambda **handlers: found.update(handlers))
    return found


@pytest.fixture
def stop_signals(at_fork) -> Iterator[StopSignals]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signals = StopSignals()
    yield signals
    # The fork handler restores the signals of this process.
    at_fork["before"]()
    at_fork["after_in_child"]()
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_restored_handlers_of_user_code_are_not_nested(stop_signals):
    def handle(number: int, frame: object) -> None:
        """Handle a signal in user code."""

    for _ in range(2):
        # The first round finds the handler of the replica, the second one a handler of user code.
        found = signal.getsignal(signal.SIGTERM)
        for _ in range(3):
            restored = signal.signal(signal.SIGTERM, handle)
            signal.signal(signal.SIGTERM, restored)
            assert signal.getsignal(signal.SIGTERM) == found
        signal.signal(signal.SIGTERM, handle)
    signal.raise_signal(signal.SIGTERM)
    await stop_signals.wait()


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()], ids=repr)
async def test_a_handler_that_ends_the_process_fails_no_batch_in_flight(stop_signals, error):
    handled = []

    def end(number: int, frame: object) -> None:
        handled.append(number)
        raise error

    signal.signal(signal.SIGTERM, end)
    signal.raise_signal(signal.SIGTERM)
    await stop_signals.wait()
    assert handled == [signal.SIGTERM]
