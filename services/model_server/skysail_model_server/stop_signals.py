"""The signals that end a replica, seen whatever user code does with signals.

C level of the interpreter ── number ──► socket ──► I/O thread
Python handler ────────────── number ──────┘

The C level writes at once, whatever the main thread is doing. The handler is for the time in which
user code has a wake-up descriptor of its own, as an event loop with signal handlers has.
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
    """A handler of user code, called after that of the replica."""

    def __init__(self, note: _Handler, handler: _Handler) -> None:
        self._note = note
        self._handler = handler

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        self._note(number, frame)
        # The replica ends once it has answered what it has, which these would make fail.
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            return self._handler(number, frame)


class StopSignals:
    """Catches the signals of this process, but not of processes that it forks."""

    def __init__(self) -> None:
        """Catch them from now on; called on the main thread."""
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
            before=self._block, after_in_parent=self._unblock, after_in_child=self._let_go
        )

    async def wait(self) -> None:
        """Return once a signal that ends the replica has come."""
        await stop_signal(self._numbers)

    def stop(self) -> None:
        """Do as if a signal had come."""
        self._note(signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None = None) -> None:
        # The socket is full of numbers, or closed in a fork.
        with contextlib.suppress(OSError):
            self._wake.send(bytes([number]))

    def _keep_handler(self, number: int, handler: Any) -> Any:
        """Stand in for `signal.signal`: a handler of user code comes beside that of the replica."""
        if number in STOP_SIGNALS:
            handler = self._chained(handler) if callable(handler) else self._note
        return self._set_handler(number, handler)

    def _chained(self, handler: _Handler) -> _Handler:
        if handler is signal.default_int_handler or handler == self._note:
            return self._note
        # User code restores the handler that it found; one more around it each time would never end.
        return (
            handler
            if isinstance(handler, _ChainedHandler)
            else _ChainedHandler(self._note, handler)
        )

    def _keep_wakeup_fd(self, fd: int, *, warn_on_full_buffer: bool = True) -> int:
        """Stand in for `signal.set_wakeup_fd`: where user code has none, the replica has its own."""
        own = self._wake.fileno()
        if fd == -1:
            fd, warn_on_full_buffer = own, False
        previous = self._set_wakeup_fd(fd, warn_on_full_buffer=warn_on_full_buffer)
        return -1 if previous == own else previous

    def _block(self) -> None:
        # A signal that comes to a fork while it has the handler of the replica would be lost.
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.before)

    def _let_go(self) -> None:
        """Make a fork one that signals end as they end any process."""
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
    """Return once a signal that ends the replica has come.

    The number of every signal comes for which there is a handler in Python, those of the user's
    code too.
    """
    loop = asyncio.get_running_loop()
    while STOP_SIGNALS.isdisjoint(await loop.sock_recv(numbers, 64)):
        pass
