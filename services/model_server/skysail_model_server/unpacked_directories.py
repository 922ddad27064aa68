"""Directories of artifacts on a volume that the pods of a node share.

    <cache-dir>/unpacked/<node>/<pod>         the artifact of a pod: hard links into the cache
    <cache-dir>/unpacked/<node>/<pod>.idle    exists since a sweep found no process that uses it

Kubernetes removes nothing from such a volume when a pod ends. A process that uses a directory holds
the lock (flock) of its manifest, which the kernel releases with the process.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from skysail_common.artifacts import MANIFEST_FILE
from skysail_common.errors import reason_of

log = logging.getLogger(__name__)

_IDLE_NS = 600 * 10**9
"""Time without a user, longer than the pause between two starts of the container of a pod."""


def hold(directory: Path) -> None:
    """Hold the lock of a directory until the process ends; do nothing without locks or manifest."""
    with contextlib.suppress(OSError):
        # The descriptor stays open on purpose.
        _lock(directory)


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory that has a manifest inside the `with` block."""
    descriptor = _lock(directory)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / MANIFEST_FILE, os.O_RDONLY | os.O_CLOEXEC)
    # Some network volumes have no locks.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def sweep(directory: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
    """Remove the directories beside this one that no process has used for ten minutes."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    for mark in directory.parent.glob("*.idle"):
        if not mark.with_suffix("").exists():
            mark.unlink(missing_ok=True)
    for other in directory.parent.iterdir():
        try:
            if other != directory and other.is_dir():
                _remove_if_idle(other, now_ns())
        except FileNotFoundError:
            # The sweep of another pod may have removed the directory.
            pass
        except OSError as error:
            facts = {"directory": str(other), "error": reason_of(error)}
            log.warning("idle directory not removed", extra=facts)


def _remove_if_idle(directory: Path, now_ns: int) -> None:
    mark = directory.with_name(f"{directory.name}.idle")
    if _is_held(directory):
        mark.unlink(missing_ok=True)
    elif not mark.exists():
        mark.touch()
    elif mark.stat().st_mtime_ns < now_ns - _IDLE_NS:
        shutil.rmtree(directory)
        mark.unlink()


def _is_held(directory: Path) -> bool:
    try:
        descriptor = os.open(directory / MANIFEST_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # A process holds the lock, or the volume has no locks and may be in use.
        return True
    finally:
        os.close(descriptor)
    return False
