"""The log of a local replica: a file that the replica rotates, and its predecessor."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import BinaryIO

from skysail_management.containers.exit_reasons import LOG_READ_BYTES

_FOLLOW_INTERVAL_S = 0.2


def older_log(path: Path) -> Path:
    """Return the file to which a log is rotated."""
    return path.with_name(f"{path.name}.1")


def read_log_end(path: Path) -> bytes:
    """Return the last `LOG_READ_BYTES` of a log across its rotation, from the start of a line.

    A line longer than that is cut to its end.
    """
    found = b""
    for each in (path, older_log(path)):
        wanted = LOG_READ_BYTES - len(found)
        try:
            with each.open("rb") as file:
                # The extra byte shows whether a line begins there.
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
        has_ended: Returns True once the log is complete; None to return after the last lines.

    Raises:
        OSError: the log does not exist.
    """
    file: BinaryIO = path.open("rb")
    try:
        pending = b""
        for line in _tail(file, older_log(path), tail_lines):
            if has_ended is not None and not line.endswith(b"\n"):
                # The rest of the line is not written yet.
                pending = line
                break
            yield line.decode(errors="replace").rstrip("\n")
        if has_ended is None:
            return
        while True:
            # The check precedes the read, so that nothing is appended after the last read.
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
            # A rotation during the read may have made it the same file.
            is_same = os.path.sameopenfile(before.fileno(), file.fileno())
            earlier = deque(() if is_same else before, maxlen=num_lines - len(lines))
    except OSError:
        return list(lines)
    return [*earlier, *lines]


def _successor(file: BinaryIO, path: Path) -> BinaryIO | None:
    """Return the successor of an open file that was rotated, or None if it is still the log."""
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
    # The log was rotated twice in the meantime.
    newer.close()
    return older
