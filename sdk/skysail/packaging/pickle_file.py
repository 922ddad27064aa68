"""The packager of files of pickle and joblib."""

import platform
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions
from skysail.packaging.pickle_scan import scan_pickle
from skysail.packaging.saved_files import opened_by, path_of
from skysail_common.errors import InvalidInput
from skysail_common.loaders.pickle_file import PickleFileLoader

_SUFFIXES = {".joblib", ".pickle", ".pkl"}
_COMPRESSED = {".bz2", ".gz", ".lzma", ".xz", ".z"}


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a file of pickle or joblib travels: as it is.

    The file is read here, without running it, for the packages that it needs.

    Raises:
        InvalidInput: it refers to definitions of the program that saved it.
    """
    path = path_of(source)
    if path is None or not path.is_file() or _SUFFIXES.isdisjoint(_suffixes(path)):
        return None
    scan = scan_pickle(path)
    if scan.from_main:
        names = ", ".join(name.removeprefix("__main__.") for name in scan.from_main[:5])
        raise InvalidInput(
            f"cannot deploy {path.name}: it refers to {names} of the program that saved it; load "
            "the file in a program that defines this, and deploy the object"
        )
    chosen: dict[str, Any] = {
        "file": path.name,
        "joblib": scan.is_joblib,
        "compressed": scan.is_compressed,
    }
    if options.method is not None:
        chosen["method"] = options.method
    saved_by = {"scikit-learn": scan.sklearn_version} if scan.sklearn_version else {}
    return Packaged(
        open=opened_by(PickleFileLoader(chosen), path.parent),
        loader="pickle-file",
        options=chosen,
        data={path.name: path},
        imports=frozenset(scan.names | ({"joblib"} if scan.is_joblib else set())),
        requirements=tuple(f"{name}=={version}" for name, version in saved_by.items()),
        pins_packages=True,
        python_version=platform.python_version(),
    )


def _suffixes(path: Path) -> list[str]:
    """Return the last suffix, or the one before it if that is of a compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2:] if suffixes and suffixes[-1] in _COMPRESSED else suffixes[-1:]
