"""Limits of an HTTP server, and the memory that its requests use."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from skysail_common.errors import Backlog, Overloaded

MIB = 1024 * 1024

# Requests up to this size are accepted even if large ones use all memory. Each connection then holds
# at most this much.
_FREE_BYTES = 16 * 1024

_RETRY_S = 1.0
"""Proposed retry time if no queue gives an estimate."""


@dataclass(frozen=True)
class HttpLimits:
    """Limits of one HTTP server; times are in seconds, and an age of 0 is unlimited."""

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
    """Memory of the bodies and of the unread answers of all connections.

    Bodies and answers each have the full limit, so that bodies never cut off answers.
    """

    def __init__(self, max_bytes: int = 256 * MIB) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_unread_bytes = 0

    @property
    def is_full(self) -> bool:
        """True if bodies exceed the limit."""
        return self.num_bytes > self.max_bytes

    @property
    def is_clogged(self) -> bool:
        """True if unread answers exceed the limit."""
        return self.num_unread_bytes > self.max_bytes

    @contextmanager
    def request(self) -> Iterator["MemoryReservation"]:
        """Return the reservation of one request, which ends with the `with` block."""
        reservation = MemoryReservation(self)
        try:
            yield reservation
        finally:
            self.num_bytes -= reservation.num_counted


class MemoryReservation:
    """The memory of one request."""

    def __init__(self, memory: HttpMemory) -> None:
        self._memory = memory
        self._num_bytes = 0
        self.num_counted = 0

    def add(self, num_bytes: int) -> None:
        """Reserve bytes.

        Raises:
            Overloaded: the bodies of all requests exceed the limit.
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
    """Return the error for a request that is refused before it reaches a queue."""
    error = Overloaded(f"{text}; retry later")
    error.backlog = Backlog(reason, 0, _RETRY_S)
    return error
