"""The directory that a local replica works in, and a short name for it.

    <data-dir>/replicas/<container id>/work     modules and temporary files
    /tmp/skysail-<suffix>                       a link to it: TMPDIR of the replica

Libraries put unix sockets into the directory for temporary files, whose path may have 107 bytes.
"""

import contextlib
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

# Always this one, so that the next management finds the links of this one.
_SHORT_PLACE = Path("/tmp")
_NAMES = f"skysail-{'[0-9a-f]' * 8}"


def work_directory(directory: Path) -> Path:
    """Return the working directory of the replica that has this directory."""
    return directory / "work"


def make_work_directory(directory: Path) -> Path:
    """Make the directory that a replica works in, and return its short name.

    Raises:
        OSError: it cannot be made.
    """
    work = work_directory(directory)
    work.mkdir(parents=True, mode=0o700)
    link = _short_link(directory)
    try:
        link.symlink_to(work.resolve(), target_is_directory=True)
    except OSError as error:
        log.warning("replica has long socket paths", extra={"link": link, "error": str(error)})
        return work
    return link


def remove_short_link(directory: Path) -> None:
    """Remove the short name of the directory of a replica that has ended."""
    link = _short_link(directory)
    with contextlib.suppress(OSError):
        if os.readlink(link) == str(work_directory(directory).resolve()):
            link.unlink()


def remove_dangling_links() -> None:
    """Remove the short names of directories that are gone, of any data directory of this user.

    A data directory may be deleted after its processes were killed.
    """
    for link in _SHORT_PLACE.glob(_NAMES):
        # The directory belongs to another user, or another management has just removed it.
        with contextlib.suppress(OSError):
            target = Path(os.readlink(link))
            is_own = target.name == "work" and link.lstat().st_uid == os.getuid()
            if is_own and not target.exists():
                link.unlink()


def remove_replica_directory(directory: Path) -> None:
    """Remove the files of a replica that has ended, as far as possible."""
    remove_short_link(directory)
    shutil.rmtree(directory, ignore_errors=True)


def _short_link(directory: Path) -> Path:
    """Return a name that the directories of no two replicas share."""
    return _SHORT_PLACE / f"skysail-{directory.name.rpartition('-')[2]}"
