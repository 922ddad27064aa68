"""Files and folders of the user that travel with a model."""

import os
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path, PurePosixPath

from skysail_common.artifacts import MAX_BLOBS
from skysail_common.errors import InvalidInput


def user_files(files: "Mapping[str, str | PathLike[str]]") -> dict[str, Path]:
    """Return the files that travel, by the path under which the model finds them.

    Args:
        files: Path of each file or folder, by its name for `context.file`. All files of a folder
            travel.

    Raises:
        InvalidInput: a name is no relative path, a file does not exist, or there are too many.
    """
    found: dict[str, Path] = {}
    for name, given in files.items():
        pure = PurePosixPath(name)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts:
            raise InvalidInput(
                f"cannot send the file {name!r}: a name is a relative path without '..', such as "
                "'weights.pt'"
            )
        for path, file in files_below(name, Path(given)):
            if path in found:
                raise InvalidInput(
                    f"cannot send the file {path!r}: files= has it twice; name it once"
                )
            found[path] = file
            if len(found) > MAX_BLOBS // 2:
                raise InvalidInput(
                    f"cannot send the folder {given}: files= has more than {MAX_BLOBS // 2} files; "
                    "put them into an archive that load(context) reads"
                )
    return found


def files_below(
    name: str, path: Path, above: frozenset[Path] = frozenset()
) -> Iterator[tuple[str, Path]]:
    """Yield a file, or all files of a folder, each with its name; links are followed.

    Args:
        name: Name of the file or folder.
        path: Its path.
        above: Folders that contain it, without links.

    Raises:
        InvalidInput: the path does not exist or is unreadable, or a link leads from a folder to one above it.
    """
    is_folder = path.is_dir()
    if not is_folder and not path.is_file():
        raise InvalidInput(f"cannot send the file {path}: it does not exist; check its path")
    if not os.access(path, os.R_OK):
        raise InvalidInput(f"cannot send the file {path}: it is not readable; change its mode")
    if not is_folder:
        yield PurePosixPath(name).as_posix(), path
        return
    here = path.resolve()
    if here in above:
        raise InvalidInput(
            f"cannot send the folder {path}: by a link it contains itself; remove the link"
        )
    for each in sorted(path.iterdir()):
        yield from files_below(f"{name}/{each.name}", each, above | {here})
