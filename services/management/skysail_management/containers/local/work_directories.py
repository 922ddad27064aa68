"""The working directory of a local replica, and a short link to it.

    <data-dir>/replicas/<container id>/work     temporary files; artifact/ has links to the blobs
    /tmp/skysail-<suffix>                       a link to it: TMPDIR of the replica

Libraries create unix sockets in the directory for temporary files, and the path of a socket is
limited to 107 bytes.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

# A constant directory lets the next management find the links of this one.
_SHORT_PLACE = Path("/tmp")
_NAMES = f"skysail-{'[0-9a-f]' * 8}"


def work_directory(directory: Path) -> Path:
    """Return the working directory of the replica with this directory."""
    return directory / "work"


def make_work_directory(directory: Path) -> Path:
    """Create the working directory of a replica, and return the short link to it.

    Raises:
        OSError: the directory cannot be created.
    """
    work = work_directory(directory)
    work.mkdir(parents=True, mode=0o700)
    link = _short_link(directory)
    try:
        link.symlink_to(work.resolve(), target_is_directory=True)
    except OSError as error:
        log.warning("short link not created", extra={"link": link, "error": str(error)})
        return work
    return link


def remove_short_link(directory: Path) -> None:
    """Remove the short link of a replica that ended."""
    link = _short_link(directory)
    with contextlib.suppress(OSError):
        if os.readlink(link) == str(work_directory(directory).resolve()):
            link.unlink()


def remove_dangling_links() -> None:
    """Remove short links to missing directories, of any data directory of this user.

    Someone may delete a data directory after its processes were killed.
    """
    for link in _SHORT_PLACE.glob(_NAMES):
        # The link may belong to another user, or be gone by now.
        with contextlib.suppress(OSError):
            target = Path(os.readlink(link))
            is_own = target.name == "work" and link.lstat().st_uid == os.getuid()
            if is_own and not target.exists():
                link.unlink()


def remove_artifact(directory: Path) -> None:
    """Remove the files of the artifact of a replica that ended, as far as possible."""
    shutil.rmtree(work_directory(directory) / "artifact", ignore_errors=True)


def remove_replica_directory(directory: Path) -> None:
    """Remove the files of a replica that ended, as far as possible."""
    remove_short_link(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _short_link(directory: Path) -> Path:
    """Return a link path that is unique to the replica."""
    return _SHORT_PLACE / f"skysail-{directory.name.rpartition('-')[2]}"
