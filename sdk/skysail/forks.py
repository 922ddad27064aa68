"""Disconnection of clients before a fork, and reconnection after it.

gRPC's asyncio stack does not survive a fork: its threads do not exist in the child, and the descriptor
that wakes its event loop is shared with the parent, whose wake-ups the child would steal. gRPC releases
all of that with its last channel, and starts again with the next one. Therefore every client with its
own thread closes its channels before a fork. Queries in flight are sent again afterwards.

An `AsyncClient` lives on an event loop that must not be blocked. If a process forks while one is
connected, the parent continues; its children refuse to connect, because gRPC would hang or crash there.
"""

import asyncio
import contextlib
import gc
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

from skysail.loop_thread import Pause
from skysail_common.errors import FailedPrecondition

_QUIET_TIMEOUT_S = 5.0
"""Longest time that a fork waits for a client to disconnect."""

_TURN_S = 0.001

_GRPC_POLLER = "(_poll_wrapper)"
"""End of the name of the thread that lives as long as gRPC's asyncio stack."""

_NATIVE_THREADS = ("event_engine", "grpc_")


class Forking(Protocol):
    """A client that takes part in forks."""

    def pause(self) -> Pause | None:
        """Begin to disconnect, and stay so until the pause is over; return None if idle."""

    def start_over(self) -> None:
        """Drop the objects of the parent process, in the child."""


class Forks:
    """The clients of this process, and the state of gRPC in it."""

    def __init__(self) -> None:
        """Starts without clients; the first one installs the handlers."""
        self._clients: weakref.WeakSet[Forking] = weakref.WeakSet()
        self._pauses: list[Pause] = []
        self._is_installed = False
        self._is_prepared = False
        self._is_in_use = False
        self._is_broken = False
        self._pid = os.getpid()
        self.gate = threading.RLock()
        """A lock, held during a fork and while a client starts or ends its thread."""

    def install(self) -> None:
        """Register the handlers of forks."""
        with self.gate:
            if not self._is_installed:
                self._is_installed = True
                os.register_at_fork(
                    before=self._before,
                    after_in_parent=self._after_in_parent,
                    after_in_child=self._after_in_child,
                )

    def add(self, client: Forking) -> None:
        """Add a client, to pause it at each fork while it exists."""
        with self.gate:
            self._clients.add(client)

    def check(self) -> None:
        """Check that gRPC can be used in this process.

        Raises:
            FailedPrecondition: the process was forked from one in which gRPC was in use.
        """
        if self._is_broken or os.getpid() != self._pid:
            raise FailedPrecondition(
                "cannot connect in this process: its parent used gRPC for asyncio when it forked, "
                "which no child survives; close every AsyncClient and grpc.aio channel before the "
                "fork, or start the process with multiprocessing's method 'spawn'"
            )

    def _before(self) -> None:
        self.gate.acquire()
        pauses = [client.pause() for client in self._clients]
        self._pauses = [pause for pause in pauses if pause is not None]
        for pause in self._pauses:
            pause.held.wait(_QUIET_TIMEOUT_S)
        if not _is_quiet():
            # A reference cycle may hold the last call, for example that of a shown error.
            gc.collect()
        self._is_in_use = not _is_quiet()
        self._is_prepared = True

    def _after_in_parent(self) -> None:
        self._is_prepared = False
        pauses, self._pauses = self._pauses, []
        for pause in pauses:
            pause.over.set()
        self.gate.release()

    def _after_in_child(self) -> None:
        self._pid = os.getpid()
        # A fork by an extension skips the handlers of Python, so that anything may be in use.
        is_sound = self._is_prepared and not self._is_in_use
        self._is_broken = self._is_broken or not is_sound
        self._is_prepared = False
        self._pauses = []
        self.gate = threading.RLock()
        for client in self._clients:
            client.start_over()


async def settle(max_turns: int = 100) -> None:
    """Wait until gRPC has stopped in this process, or briefly if another client uses it.

    The tasks of gRPC for a call end some turns of the event loop after the call, and its native threads
    a little later. A child that is forked while these hold a lock waits for the lock forever.
    """
    for _ in range(max_turns):
        if _is_quiet() and not _has_native_threads():
            return
        await asyncio.sleep(_TURN_S)


def _is_quiet() -> bool:
    return not any(thread.name.endswith(_GRPC_POLLER) for thread in threading.enumerate())


def _has_native_threads(tasks: Path = Path("/proc/self/task")) -> bool:
    """Return whether gRPC has native threads; False if the system does not list threads."""
    for file in tasks.glob("*/comm"):
        # A thread may have ended since the listing.
        with contextlib.suppress(OSError):
            if file.read_text().startswith(_NATIVE_THREADS):
                return True
    return False


FORKS = Forks()
"""The clients of this process."""
