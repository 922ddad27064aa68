"""Bounds of an HTTP server, and what its requests hold at the moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from skysail_common.errors import Backlog, Overloaded

MIB = 1024 * 1024

# Requests up to this size are taken even if large ones have used up the memory. All connections
# together hold at most this much each.
_FREE_BYTES = 16 * 1024

_RETRY_S = 1.0
"""Wait that is proposed if no queue tells how long it lasts."""


@dataclass(frozen=True)
class HttpLimits:
    """Bounds of one HTTP server; times in seconds, where 0 is no bound of the age."""

    keep_alive_s: int = 75
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    drain_idle_s: float = 5.0
    max_connection_age_s: float = 0.0
    max_connections: int = 10_000
    max_requests: int = 10_000
    max_head_bytes: int = 64 * 1024
    max_headers: int = 100


class HttpMemory:
    """The bytes of bodies, and those of unread answers, that all connections hold.

    Each has the bound for itself: bodies that fill it are no reason to cut answers off.
    """

    def __init__(self, max_bytes: int = 256 * MIB) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_unread_bytes = 0

    @property
    def is_full(self) -> bool:
        """True if bodies hold more than they may."""
        return self.num_bytes > self.max_bytes

    @property
    def is_clogged(self) -> bool:
        """True if unread answers hold more than they may."""
        return self.num_unread_bytes > self.max_bytes

    @contextmanager
    def request(self) -> Iterator["MemoryReservation"]:
        """Return what one request holds; it is let go of at the end of the `with` block."""
        reservation = MemoryReservation(self)
        try:
            yield reservation
        finally:
            self.num_bytes -= reservation.num_counted


class MemoryReservation:
    """The bytes that one request holds."""

    def __init__(self, memory: HttpMemory) -> None:
        self._memory = memory
        self._num_bytes = 0
        self.num_counted = 0

    def add(self, num_bytes: int) -> None:
        """Count bytes.

        Raises:
            Overloaded: all requests together hold more than they may.
        """
        self._num_bytes += num_bytes
        counted = max(0, self._num_bytes - _FREE_BYTES)
        self._memory.num_bytes += counted - self.num_counted
        self.num_counted = counted
        if counted and self._memory.is_full:
            limit = self._memory.max_bytes // MIB
            raise overloaded(
                "memory_full",
                f"cannot take the request: the bodies of all requests hold more than {limit} MiB",
            )


def overloaded(reason: str, text: str) -> Overloaded:
    """Return the error of a request that finds no room before it reaches a queue."""
    error = Overloaded(f"{text}; retry later")
    error.backlog = Backlog(reason, 0, _RETRY_S)
    return error
