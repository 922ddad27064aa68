"""Private directories of a cluster on one machine: its data, its logs, its unix sockets."""

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
# A full file system, and a full quota.
_FULL = (errno.ENOSPC, errno.EDQUOT)
# gRPC and Redis write the path of a socket as part of a URL.
_UNFIT_FOR_URLS = re.compile(rb"[%#?\x00-\x1f\x7f]")


def private_directory(directory: Path) -> Path:
    """Make a directory, unless it exists, that only this user may enter, and return it.

    Raises:
        FailedPrecondition: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise cannot_use(directory, error) from error
    return directory


def cannot_use(path: Path, error: OSError) -> FailedPrecondition:
    """Return the error for a path of the data directory that cannot be made or written."""
    reason = reason_of(error)
    if isinstance(error, FileExistsError):
        reason = "it is a file, not a directory"
    if error.errno in _FULL:
        return FailedPrecondition(
            f"cannot write {path}: {reason}; free some, or choose another data directory with "
            "--data-dir or SKYSAIL_DATA_DIR"
        )
    if isinstance(error, PermissionError):
        return FailedPrecondition(f"cannot write {path}: {reason}; {_fix_of_owner(path)}")
    return FailedPrecondition(
        f"cannot write {path}: {reason}; choose another data directory with --data-dir or "
        "SKYSAIL_DATA_DIR"
    )


def _fix_of_owner(path: Path) -> str:
    """Return whose the nearest directory above a path is, whose it must be, and how it becomes that."""
    here = path.parent
    while not here.exists() and here != here.parent:
        here = here.parent
    own = f"{os.getuid()}:{os.getgid()}"
    with contextlib.suppress(OSError):
        status = here.stat()
        return (
            f"{here} belongs to {status.st_uid}:{status.st_gid} with mode "
            f"{stat.S_IMODE(status.st_mode):o}, and this process is {own}; run 'chown -R {own}' on "
            "the directory that is mounted there, or choose another data directory"
        )
    return f"this process is {own}; choose another data directory with --data-dir"


def socket_directory(data_dir: Path) -> Path:
    """Return a directory for sockets that only this user may enter; makes it.

    It is in the data directory, or in a directory for temporary files if the path would be too long
    for a socket or has characters that mean something else in a URL.

    Raises:
        FailedPrecondition: it cannot be made, somebody else owns it, or it is no directory.
    """
    directory = _place_of_sockets(data_dir)
    try:
        if directory.parent == data_dir.resolve():
            private_directory(data_dir)
        # A path that exists and is not a directory is refused below.
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise cannot_use(directory, error) from error
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise FailedPrecondition(f"{directory} belongs to somebody else; remove it")
    directory.chmod(0o700)
    return directory


def management_socket(data_dir: Path) -> str:
    """Return where management of this data directory is reached on this machine if it speaks TLS."""
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
        # Something still listens in it.
        return


def log_path(data_dir: Path, name: str) -> Path:
    """Return the file that the log of a service goes to; makes its directory.

    Raises:
        FailedPrecondition: it cannot be made.
    """
    # Make one directory after the other, because `mode` applies to the last only.
    return private_directory(private_directory(data_dir) / "logs") / f"{name}.log"


def open_log(path: Path) -> BinaryIO:
    """Open the log of a service for appending.

    Raises:
        FailedPrecondition: it cannot be written.
    """
    try:
        return path.open("ab")
    except OSError as error:
        raise cannot_use(path, error) from error
