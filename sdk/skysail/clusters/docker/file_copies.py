"""Copies of files that settings name, for services in containers.

A container does not see the file system of this machine. It gets copies, which belong to its user and
follow the originals: a renewed certificate is a new file under the same name, and a bind mount would keep
the old one.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from skysail_common.errors import FailedPrecondition, reason_of
from skysail_common.process.data_dir import private_directory

log = logging.getLogger(__name__)

EVERY_S = 10.0
"""Interval at which the originals are checked for changes."""


class FileCopies:
    """The copies for one service."""

    def __init__(self, originals: Mapping[str, Path], directory: Path, user: int) -> None:
        """Starts without copies.

        Args:
            originals: Files of this machine by the variables that name them.
            directory: Directory of the copies, each under the name of its variable.
            user: Owner of the copies.
        """
        self._originals = dict(originals)
        self._directory = directory
        self._user = user
        self._seen: dict[str, object] = {}

    def renew(self) -> None:
        """Copy each changed file, with the mode 0600.

        Raises:
            FailedPrecondition: a file cannot be copied; the message names its variable.
        """
        for variable, original in self._originals.items():
            try:
                status = original.stat()
                seen = (status.st_ino, status.st_mtime_ns, status.st_size)
                if self._seen.get(variable) != seen:
                    self._copy(variable, original.read_bytes())
                    self._seen[variable] = seen
            except OSError as error:
                reason = reason_of(error)
                raise FailedPrecondition(
                    f"cannot copy {original} of {variable}: {reason}"
                ) from None

    def _copy(self, name: str, content: bytes) -> None:
        private_directory(self._directory)
        temporary = self._directory / f"{name}.new"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        if self._user != os.getuid():
            os.chown(temporary, self._user, self._user)
            os.chown(self._directory, self._user, self._user)
        temporary.replace(self._directory / name)

    async def keep_renewed(self, every_s: float = EVERY_S) -> None:
        """Copy changed files until cancelled; log each failure once."""
        reason = ""
        while True:
            await asyncio.sleep(every_s)
            before, reason = reason, ""
            try:
                self.renew()
            except FailedPrecondition as error:
                reason = error.message
                if reason != before:
                    log.error("file not renewed", extra={"error": reason})
