"""The lock of the data directory: one management at a time."""

import asyncio
import fcntl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from skysail_common.clock import MONOTONIC
from skysail_common.errors import FailedPrecondition
from skysail_common.process.data_dir import cannot_lock, cannot_use, private_directory

LOCK_FILE = "management.lock"

_RETRY_S = 0.1


@asynccontextmanager
async def lock_data_dir(
    data_dir: Path, wait_s: float = 0.0, stop: asyncio.Event | None = None
) -> AsyncIterator[None]:
    """Hold the lock inside the block.

    Args:
        data_dir: The directory, which is created if it does not exist.
        wait_s: Longest wait for another management to release the lock, in seconds.
        stop: Ends the wait.

    Raises:
        FailedPrecondition: another management holds the lock, or the directory cannot be locked.
    """
    path = private_directory(data_dir) / LOCK_FILE
    end = MONOTONIC() + wait_s
    try:
        file = path.open("w")
    except OSError as error:
        raise cannot_use(path, error) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if MONOTONIC() >= end or (stop is not None and stop.is_set()):
                    raise FailedPrecondition(
                        f"data directory {data_dir} is in use by another management; stop that "
                        "one, or choose another directory with --data-dir"
                    ) from None
                await asyncio.sleep(_RETRY_S)
            except OSError as error:
                raise cannot_lock(data_dir, error) from error
            else:
                break
        yield
