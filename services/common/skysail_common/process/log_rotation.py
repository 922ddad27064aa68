"""Rotation of log files that several processes write."""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from skysail_common.process.threads import in_thread

log = logging.getLogger(__name__)

MAX_BYTES = 10 * 1024 * 1024
"""Size at which a log rotates; one older file stays."""

EVERY_S = 5.0


def rotate_if_full(path: Path, max_bytes: int = MAX_BYTES) -> bool:
    """Copy a full log to the suffix `.1` and truncate it; return whether it was full.

    Writers keep their descriptors, which append. A line that is written between the copy and the
    truncation is lost.

    Raises:
        OSError: the copy failed; the log was truncated nevertheless.
    """
    try:
        if path.stat().st_size < max_bytes:
            return False
    except FileNotFoundError:
        return False
    older = path.with_name(f"{path.name}.1")
    try:
        with path.open("rb") as source:
            older.touch(mode=0o600)
            with older.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    finally:
        # A full disk fails the copy, but must not prevent the truncation.
        with path.open("r+b") as file:
            file.truncate(0)
    return True


async def rotate_logs(paths: Sequence[Path], every_s: float = EVERY_S) -> None:
    """Rotate full logs until this call is cancelled."""
    while True:
        await asyncio.sleep(every_s)
        for path in paths:
            try:
                await in_thread(rotate_if_full, path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    log.warning("log not rotated", extra={"file": str(path), "error": str(error)})
