"""Modules and packages of the user that travel because `code=` names them."""

import importlib.util
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from os import PathLike, fspath
from pathlib import Path

from skysail.artifact.package_files import FileBudget, package_files, package_paths
from skysail_common.errors import InvalidInput

_COMPILED = (*EXTENSION_SUFFIXES, ".so", ".pyd", ".dylib", ".dll")


def user_code(code: "Sequence[str | PathLike[str]]") -> dict[str, bytes]:
    """Return the files of modules and packages, by their path in the directory of modules.

    Args:
        code: Paths of modules (`helpers.py`) and of packages (`./mypkg`), whose data files travel
            too, or names by which Python imports them (`mypkg`).

    Raises:
        InvalidInput: nothing has this path or name, a file is compiled, two have the same name, or
            the files exceed a limit.
    """
    budget = FileBudget()
    found: dict[str, bytes] = {}
    given: dict[str, Path] = {}
    for each in code:
        path = _path(fspath(each))
        other = given.setdefault(path.stem if path.is_file() else path.name, path)
        if other != path:
            raise InvalidInput(
                f"cannot send both {other} and {path}: modules of the same name hide each other; "
                "rename one"
            )
        found.update(_files(path, budget))
    return found


def _path(text: str) -> Path:
    """Return the file of a module, or the directory of a package."""
    path = Path(text).absolute()
    if path.exists():
        return path
    if all(part.isidentifier() for part in text.split(".")):
        try:
            spec = importlib.util.find_spec(text.partition(".")[0])
        except (ImportError, ValueError):
            spec = None
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
        if spec is not None and spec.has_location and spec.origin is not None:
            return Path(spec.origin)
    raise InvalidInput(
        f"cannot send the code {text!r}: there is no such file or folder, and Python finds no module "
        "of this name; check code="
    )


def _files(path: Path, budget: FileBudget) -> dict[str, bytes]:
    is_folder = path.is_dir()
    for each in package_paths(path) if is_folder else [path]:
        if each.name.endswith(_COMPILED):
            raise InvalidInput(
                f"cannot send the code {path.name}: {each} is compiled for this machine; build a "
                "wheel of it and name that in pkgs_to_install"
            )
    if (not is_folder and path.suffix != ".py") or not path.stem.isidentifier():
        raise InvalidInput(
            f"cannot send the code {path}: Python cannot import a file of this name; give a module "
            "(.py) or the folder of a package, and send data by files="
        )
    if is_folder:
        return dict(package_files(path.name, path, budget))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"cannot send the code {path}: {error.strerror}; check its mode"
        ) from error
    budget.take(path.name, len(content))
    return {path.name: content}
