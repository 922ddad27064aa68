"""Detection of stop signals, even if user code installs signal handlers.

C level of the interpreter ── number ──► socket ──► I/O thread
Python handler ────────────── number ──────┘

The C level writes at once, even while the main thread is busy. The handler covers the time in which
user code has its own wake-up descriptor, such as an event loop with signal handlers.
"""

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})

_Handler = Callable[[int, FrameType | None], Any]


class _ChainedHandler:
    """A handler of user code that runs after the handler of the replica."""

    def __init__(self, note: _Handler, handler: _Handler) -> None:
        self._note = note
        self._handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        self._note(number, frame)
        # The replica ends by itself after its queued batches, which these exceptions would fail.
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            return self._handler(number, frame)


class StopSignals:
    """The stop signals of this process, but not of its forks."""

    def __init__(self) -> None:
        """Install the handlers, on the main thread."""
        self._numbers, self._wake = socket.socketpair()
        self._numbers.setblocking(False)
        self._wake.setblocking(False)
        self._set_handler, self._set_wakeup_fd = signal.signal, signal.set_wakeup_fd
        self._set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            self._set_handler(number, self._note)
        self._put_into_module(self._keep_handler, self._keep_wakeup_fd)
        self._masks = threading.local()
        os.register_at_fork(
            before=self._block, after_in_parent=self._unblock, after_in_child=self._restore_in_fork
        )

    async def wait(self) -> None:
        """Return after a stop signal."""
        await stop_signal(self._numbers)

    def stop(self) -> None:
        """Simulate a stop signal."""
        self._note(signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None = None) -> None:
        # A full socket has enough numbers, and a fork has closed its socket.
        with contextlib.suppress(OSError):
            self._wake.send(bytes([number]))

    def _keep_handler(self, number: int, handler: Any) -> Any:
        """Replace `signal.signal`: chain a handler of user code to the handler of the replica."""
        if number in STOP_SIGNALS:
            handler = self._chained(handler) if callable(handler) else self._note
        return self._set_handler(number, handler)

    def _chained(self, handler: _Handler) -> _Handler:
        if handler is signal.default_int_handler or handler == self._note:
            return self._note
        # User code restores the handler that it found, which must not be wrapped again each time.
        return (
            handler
            if isinstance(handler, _ChainedHandler)
            else _ChainedHandler(self._note, handler)
        )

    def _keep_wakeup_fd(self, fd: int, *, warn_on_full_buffer: bool = True) -> int:
        """Replace `signal.set_wakeup_fd`: use the socket of the replica unless user code has one."""
        own = self._wake.fileno()
        if fd == -1:
            fd, warn_on_full_buffer = own, False
        previous = self._set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)
        return -1 if previous == own else previous

    def _block(self) -> None:
        # A fork would lose a signal that arrives while it has the handler of the replica.
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _restore_in_fork(self) -> None:
        """Restore the default signal handling in a fork."""
        self._put_into_module(self._set_handler, self._set_wakeup_fd)
        self._set_wakeup_fd(-1)
        for number, handler in (
            (signal.SIGTERM, signal.SIG_DFL),
            (signal.SIGINT, signal.default_int_handler),
        ):
            if signal.getsignal(number) == self._note:
                self._set_handler(number, handler)
        self._numbers.close()
        self._wake.close()
        self._unblock()

    @staticmethod
    def _put_into_module(set_handler: Any, set_wakeup_fd: Any) -> None:
        module: Any = signal
        module.signal, module.set_wakeup_fd = set_handler, set_wakeup_fd


async def stop_signal(numbers: socket.socket) -> None:
    """Return after a stop signal.

    The socket receives the numbers of all signals with a Python handler, including handlers of user
    code.
    """
    loop = asyncio.get_running_loop()
    while STOP_SIGNALS.isdisjoint(await loop.sock_recv(numbers, 64)):
        pass
