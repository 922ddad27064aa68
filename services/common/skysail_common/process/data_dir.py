"""Private directories of a cluster on one machine: data, logs and unix sockets."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from skysail_common.errors import FailedPrecondition, reason_of

# A unix socket's path holds at most 107 bytes on Linux and 103 on macOS.
_MAX_SOCKET_PATH_BYTES = 100
_LONGEST_NAME = 24
# Errors of a full file system and a full quota.
_FULL = (errno.ENOSPC, errno.EDQUOT)
# gRPC and Redis write the path of a socket as part of a URL.
_UNFIT_FOR_URLS = re.compile(rb"[%#?\x00-\x1f\x7f]")


def private_directory(directory: Path) -> Path:
    """Create a directory that only this user may enter, unless it exists, and return it.

    Raises:
        FailedPrecondition: the directory cannot be created.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise cannot_use(directory, error) from error
    return directory


def cannot_use(path: Path, error: OSError) -> FailedPrecondition:
    """Return the error for a path of the data directory that cannot be created or written."""
    reason = reason_of(error)
    if isinstance(error, FileExistsError):
        reason = "it is a file, not a directory"
    if error.errno in _FULL:
        return FailedPrecondition(
            f"cannot write {path}: {reason}; free disk space, or choose another data directory with "
            "--data-dir or SKYSAIL_DATA_DIR"
        )
    if isinstance(error, PermissionError):
        return FailedPrecondition(f"cannot write {path}: {reason}; {_fix_of_owner(path)}")
    return FailedPrecondition(
        f"cannot write {path}: {reason}; choose another data directory with --data-dir or "
        "SKYSAIL_DATA_DIR"
    )


def cannot_lock(data_dir: Path, error: OSError) -> FailedPrecondition:
    """Return the error for a data directory whose file system refuses locks."""
    return FailedPrecondition(
        f"cannot lock data directory {data_dir}: {error}; use a file system that has locks, such as "
        "a local disk or NFS 4"
    )


def _fix_of_owner(path: Path) -> str:
    """Return the owner of the nearest existing directory above a path, and the fix for the owner."""
    here = path.parent
    while not here.exists() and here != here.parent:
        here = here.parent
    own = f"{os.getuid()}:{os.getgid()}"
    with contextlib.suppress(OSError):
        status = here.stat()
        return (
            f"{here} belongs to {status.st_uid}:{status.st_gid} with mode "
            f"{stat.S_IMODE(status.st_mode):o}, and this process runs as {own}; run 'chown -R {own}' "
            "on the directory that is mounted there, or choose another data directory"
        )
    return f"this process runs as {own}; choose another data directory with --data-dir"


def socket_directory(data_dir: Path) -> Path:
    """Create a directory for sockets that only this user may enter, and return it.

    The directory is in the data directory. It is in a directory for temporary files instead if the
    path would be too long for a socket or has characters with a meaning in URLs.

    Raises:
        FailedPrecondition: the directory cannot be created, belongs to another user, or is a file.
    """
    directory = _place_of_sockets(data_dir)
    try:
        if directory.parent == data_dir.resolve():
            private_directory(data_dir)
        # The check of the status below refuses a path that exists and is not a directory.
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise cannot_use(directory, error) from error
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise FailedPrecondition(
            f"cannot use {directory}: it belongs to another user or is not a directory; remove it"
        )
    directory.chmod(0o700)
    return directory


def management_socket(data_dir: Path) -> str:
    """Return the address on this machine of a management with TLS that uses this data directory."""
    return f"unix:{socket_directory(data_dir) / 'management.sock'}"


def _place_of_sockets(data_dir: Path) -> Path:
    inside = data_dir.resolve() / "sockets"
    digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
    name = f"skysail-{digest}"
    for directory in (inside, Path(tempfile.gettempdir()) / name, Path("/tmp") / name):
        path = os.fsencode(directory)
        fits = len(path) + 1 + _LONGEST_NAME <= _MAX_SOCKET_PATH_BYTES
        if fits and not _UNFIT_FOR_URLS.search(path):
            return directory
    raise AssertionError("/tmp is short")


def remove_socket_directory(data_dir: Path) -> None:
    """Remove the directory if it is empty."""
    try:
        socket_directory(data_dir).rmdir()
    except OSError:
        # A socket in the directory is still in use.
        return


def log_path(data_dir: Path, name: str) -> Path:
    """Return the log file of a service, after creating its directory.

    Raises:
        FailedPrecondition: the directory cannot be created.
    """
    # Each directory is created by its own call, because `mode` applies only to the last.
    return private_directory(private_directory(data_dir) / "logs") / f"{name}.log"


def open_log(path: Path) -> BinaryIO:
    """Open the log of a service for appending.

    Raises:
        FailedPrecondition: the file cannot be written.
    """
    try:
        return path.open("ab")
    except OSError as error:
        raise cannot_use(path, error) from error
