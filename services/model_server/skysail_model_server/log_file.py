"""The replica's own log file: standard output and error, rotated without losing a line."""

import contextlib
import os
from pathlib import Path


class LogFile:
    """Keeps file descriptors 1 and 2 on one file of bounded size.

    The process rotates its file itself: nobody else could do it without a gap, and management may
    be away.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._reopen()

    def rotate_if_full(self) -> None:
        """Begin a new file if this one is full; the old one gets the suffix `.1`.

        Raises:
            OSError: the new one cannot be made; the same call may succeed later.
        """
        if os.fstat(2).st_size >= self._max_bytes:
            # An attempt that failed half way has moved it.
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(self._path.with_suffix(self._path.suffix + ".1"))
            self._reopen()

    def _reopen(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
