"""Files of a local package: its sources and the data files beside them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from skysail_common.errors import InvalidInput

MAX_FILES = 10_000
MAX_BYTES = 512 * 1024 * 1024

# Caches, environments and files that tools write beside sources; hidden ones are skipped anyway.
_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "node_modules", "venv"})
_SKIPPED_ENDINGS = (
    ".egg-info", ".dist-info", ".env", ".ipynb", ".jks", ".kdbx", ".keystore", ".p12", ".p8",
    ".pfx", ".ppk", ".pyc", ".pyo", ".swp", "~",
)  # fmt: skip
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----")
_LONGEST_HEAD = 64 * 1024


class FileBudget:
    """The limits of the number and the size of files in one artifact."""

    def __init__(self) -> None:
        self._num_files = 0
        self._num_bytes = 0
        self._largest: tuple[int, str] = (0, "")

    def take(self, path: str, num_bytes: int) -> None:
        """Count a file.

        Raises:
            InvalidInput: a limit is exceeded; the message names the largest file.
        """
        self._num_files += 1
        self._num_bytes += num_bytes
        self._largest = max(self._largest, (num_bytes, path))
        if self._num_files <= MAX_FILES and self._num_bytes <= MAX_BYTES:
            return
        top = path.partition("/")[0]
        size, largest = self._largest
        bound = (
            f"more than {MAX_FILES} files"
            if self._num_files > MAX_FILES
            else f"more than {MAX_BYTES >> 20} MiB"
        )
        raise InvalidInput(
            f"cannot send the local package {top!r} with the function: it has {bound}, the largest "
            f"is {largest} ({size / 2**20:.1f} MiB); move data out of the package, or build a "
            "wheel of it and name that in pkgs_to_install"
        )


def package_files(top: str, directory: Path, budget: FileBudget) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the files in the directory of a package, in order.

    The result excludes hidden files (`.git`, `.env`, …), caches, virtual environments, notebooks, and
    files with a private key under any name. Links to directories are not followed.

    Raises:
        InvalidInput: the files exceed a limit, which is checked before any is read, or a file is
            unreadable.
    """
    found: list[tuple[str, Path]] = []
    for file in package_paths(directory):
        path = f"{top}/{file.relative_to(directory).as_posix()}"
        budget.take(path, file.stat().st_size)
        found.append((path, file))
    for path, file in found:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InvalidInput(
                f"cannot send the local package {top!r} with the function: cannot read {file}: "
                f"{error.strerror}; make it readable, or move it out of the package"
            ) from error
        if file.suffix == ".py" or not _PRIVATE_KEY.search(content, 0, _LONGEST_HEAD):
            yield path, content


def package_paths(directory: Path) -> Iterator[Path]:
    """Yield the files of a package that may travel, in order."""
    for folder, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if _is_wanted(folder, name))
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and not name.endswith(_SKIPPED_ENDINGS) and file.is_file():
                yield file


def _is_wanted(folder: str, name: str) -> bool:
    return not (
        name.startswith(".")
        or name in _SKIPPED_DIRECTORIES
        or name.endswith(_SKIPPED_ENDINGS)
        or Path(folder, name, "pyvenv.cfg").exists()
    )
