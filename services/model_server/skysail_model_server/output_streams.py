"""Standard output and error of a replica, whose write failures never fail a query."""

import io
import os
import sys
from typing import Any

_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2


class DroppingOutput(io.RawIOBase):
    """A file descriptor that drops and counts unwritable bytes, such as on a full disk."""

    def __init__(self, descriptor: int) -> None:
        """Write to a descriptor, which stays open."""
        self._descriptor = descriptor
        self._num_dropped_bytes = 0
        self._cause = ""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write or drop all data, and return its size."""
        view = memoryview(data).cast("B")
        if self._num_dropped_bytes:
            dropped = f"{self._num_dropped_bytes} bytes of output were dropped: {self._cause}\n"
            if self._written(dropped.encode()):
                self._num_dropped_bytes = 0
        num_written = self._written(view)
        self._num_dropped_bytes += len(view) - num_written
        return len(view)

    def _written(self, data: "bytes | memoryview[int]") -> int:
        """Write as many bytes as possible and return their number."""
        num_written = 0
        try:
            while num_written < len(data):
                num_written += os.write(self._descriptor, data[num_written:])
        except OSError as error:
            self._cause = error.strerror or str(error)
        return num_written


def open_output_streams() -> None:
    """Replace the streams of `sys` by streams that accept every text and never raise."""
    # Libraries also write to the dunder names, which the type stubs declare final.
    sys.stdout = sys.__stdout__ = _stream(_STANDARD_OUTPUT)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(_STANDARD_ERROR)  # type: ignore[misc]


def _stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        # The stream is unbuffered, as with `python -u`, because a crash would lose a buffer. The
        # type stubs demand a buffer.
        DroppingOutput(descriptor),  # type: ignore[arg-type]
        encoding="utf-8",
        # Half a surrogate pair has no encoding.
        errors="backslashreplace",
        write_through=True,
    )
