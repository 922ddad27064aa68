"""The log of a local replica: a file that the replica rotates, and the one before it."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import BinaryIO

from skysail_management.containers.exit_reasons import LOG_READ_BYTES

_FOLLOW_INTERVAL_S = 0.2


def older_log(path: Path) -> Path:
    """Return the file that a log was rotated to."""
    return path.with_name(f"{path.name}.1")


def read_log_end(path: Path) -> bytes:
    """Return the last `LOG_READ_BYTES` of a log, rotated or not, from the beginning of a line on.

    Only of a line that is longer than that the end alone is returned.
    """
    found = b""
    for each in (path, older_log(path)):
        wanted = LOG_READ_BYTES - len(found)
        try:
            with each.open("rb") as file:
                # Read one byte more, to see whether a line begins there.
                file.seek(max(0, file.seek(0, os.SEEK_END) - wanted - 1))
                found = file.read() + found
        except OSError:
            break
        if len(found) > LOG_READ_BYTES:
            begin = found.find(b"\n") + 1
            return found[begin:] if 0 < begin < len(found) else found
    return found


async def read_log(
    path: Path, tail_lines: int, has_ended: Callable[[], bool] | None
) -> AsyncGenerator[str, None]:
    """Yield the last lines of a log and then new lines, across rotations.

    Args:
        path: The log.
        tail_lines: Lines to begin with.
        has_ended: Returns True once nothing more is added; None to end after the last lines.

    Raises:
        OSError: there is no such log.
    """
    file: BinaryIO = path.open("rb")
    try:
        pending = b""
        for line in _tail(file, older_log(path), tail_lines):
            if has_ended is not None and not line.endswith(b"\n"):
                # The rest of it is still to come.
                pending = line
                break
            yield line.decode(errors="replace").rstrip("\n")
        if has_ended is None:
            return
        while True:
            # Asked before the file is read to its end: nothing is added to it afterwards.
            is_last, successor = has_ended(), _successor(file, path)
            pending += file.read()
            *lines, pending = pending.split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
            if successor is not None:
                file.close()
                file = successor
            elif is_last:
                if pending:
                    yield pending.decode(errors="replace")
                return
            else:
                await asyncio.sleep(_FOLLOW_INTERVAL_S)
    finally:
        file.close()


def _tail(file: BinaryIO, older: Path, num_lines: int) -> list[bytes]:
    lines = deque(file, maxlen=num_lines)
    if len(lines) == num_lines:
        return list(lines)
    try:
        with older.open("rb") as before:
            # Rotated while it was read: it is the same file.
            is_same = os.path.sameopenfile(before.fileno(), file.fileno())
            earlier = deque(() if is_same else before, maxlen=num_lines - len(lines))
    except OSError:
        return list(lines)
    return [*earlier, *lines]


def _successor(file: BinaryIO, path: Path) -> BinaryIO | None:
    """Return the file that follows an open one that was rotated; None if that is still the log."""
    try:
        newer = path.open("rb")
    except OSError:
        # The log is being rotated, or was removed.
        return None
    if os.path.sameopenfile(newer.fileno(), file.fileno()):
        newer.close()
        return None
    try:
        older = older_log(path).open("rb")
    except OSError:
        return newer
    if os.path.sameopenfile(older.fileno(), file.fileno()):
        older.close()
        return newer
    # Rotated twice since.
    newer.close()
    return older
