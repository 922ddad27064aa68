"""Where a cluster on one machine keeps its unix sockets."""

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

from skysail_common.errors import FailedPrecondition

# A unix socket's path holds at most 107 bytes on Linux and 103 on macOS.
_MAX_SOCKET_PATH_BYTES = 100
_LONGEST_NAME = 24


def socket_directory(data_dir: Path) -> Path:
    """Return a directory for sockets that only this user may enter; makes it.

    It is in the data directory, or under the system's directory for temporary files where the
    path would be too long for a socket.

    Raises:
        FailedPrecondition: somebody else owns the directory, or it is none.
    """
    inside = data_dir.resolve() / "sockets"
    if len(os.fsencode(inside)) + 1 + _LONGEST_NAME <= _MAX_SOCKET_PATH_BYTES:
        directory = inside
    else:
        digest = hashlib.sha256(os.fsencode(inside)).hexdigest()[:12]
        directory = Path(tempfile.gettempdir()) / f"skysail-{digest}"
    # What is there and no directory is refused below.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise FailedPrecondition(f"{directory} belongs to somebody else; remove it")
    directory.chmod(0o700)
    return directory


def remove_socket_directory(data_dir: Path) -> None:
    """Remove the directory if it is empty."""
    try:
        socket_directory(data_dir).rmdir()
    except OSError:
        # Something still listens in it.
        return


def log_path(data_dir: Path, name: str) -> Path:
    """Return the file that the log of a service goes to; makes its directory."""
    directory = data_dir / "logs"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory / f"{name}.log"
