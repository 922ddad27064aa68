"""The log file of a replica: standard output and error, rotated without losing a line."""

import contextlib
import os
from pathlib import Path


class LogFile:
    """File descriptors 1 and 2 on one file of bounded size.

    The process rotates its file itself, because another process could lose lines, and management may
    be unavailable.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._reopen()

    def rotate_if_full(self) -> None:
        """Start a new file if this one is full; the old file gets the suffix `.1`.

        Raises:
            OSError: the new file cannot be created; a later call may succeed.
        """
        if os.fstat(2).st_size >= self._max_bytes:
            # A failed earlier attempt may have moved the file already.
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(self._path.with_suffix(self._path.suffix + ".1"))
            self._reopen()

    def _reopen(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
