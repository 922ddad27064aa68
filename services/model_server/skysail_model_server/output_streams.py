"""Standard output and error of a replica: no failure to print fails a query."""

import io
import os
import sys
from typing import Any

_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2


class DroppingOutput(io.RawIOBase):
    """A file descriptor that drops what cannot be written, such as on a full disk, and counts it."""

    def __init__(self, descriptor: int) -> None:
        """Write to a descriptor, which stays open."""
        self._descriptor = descriptor
        self._num_dropped_bytes = 0
        self._cause = ""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write or drop all of it, and return its size."""
        view = memoryview(data).cast("B")
        if self._num_dropped_bytes:
            dropped = f"{self._num_dropped_bytes} bytes of output were dropped: {self._cause}\n"
            if self._written(dropped.encode()):
                self._num_dropped_bytes = 0
        num_written = self._written(view)
        self._num_dropped_bytes += len(view) - num_written
        return len(view)

    def _written(self, data: "bytes | memoryview[int]") -> int:
        """Return how many bytes could be written."""
        num_written = 0
        try:
            while num_written < len(data):
                num_written += os.write(self._descriptor, data[num_written:])
        except OSError as error:
            self._cause = error.strerror or str(error)
        return num_written


def open_output_streams() -> None:
    """Replace the streams of `sys` by ones that take every text and never raise for it."""
    # Libraries write to the second names too, which their types call final.
    sys.stdout = sys.__stdout__ = _stream(_STANDARD_OUTPUT)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(_STANDARD_ERROR)  # type: ignore[misc]


def _stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        # As `python -u` makes it: a buffer would be lost in a crash. Types ask for one.
        DroppingOutput(descriptor),  # type: ignore[arg-type]
        encoding="utf-8",
        # Half a surrogate pair is in no encoding.
        errors="backslashreplace",
        write_through=True,
    )
