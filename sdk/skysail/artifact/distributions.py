"""Installed distributions that contain a module."""

import importlib.metadata
import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

# `setup.py develop` writes metadata without a version beside the edited sources.
_INSTALLED_METADATA = re.compile(r".+\.dist-info|.+-\d.*\.egg-info", re.IGNORECASE)


@dataclass(frozen=True)
class NeededPackages:
    """Distributions that contain the modules of a function."""

    versions: Mapping[str, str]
    """Version of each distribution."""
    modules: Mapping[str, tuple[str, ...]]
    """Distributions of each module."""


def needed_packages(names: Collection[str]) -> NeededPackages:
    """Return the installed distributions that contain modules.

    Args:
        names: Full names of modules, or of their members.
    """
    tops = {name.partition(".")[0] for name in names}
    installed = [
        _Installed(each, contents)
        for each in importlib.metadata.distributions()
        if not tops.isdisjoint(contents := _contents(each))
    ]
    owners: dict[str, set[str]] = {}
    versions: dict[str, str] = {}
    for name in sorted(names):
        module, found = _owners(name, installed)
        for each in found:
            package = each.distribution.metadata["Name"]
            if package != "skysail":
                owners.setdefault(module, set()).add(package)
                versions[package] = each.distribution.version
    return NeededPackages(
        dict(sorted(versions.items())),
        {module: tuple(sorted(packages)) for module, packages in sorted(owners.items())},
    )


@dataclass(frozen=True)
class _Installed:
    distribution: importlib.metadata.Distribution
    modules: frozenset[str]


def _owners(name: str, installed: Iterable[_Installed]) -> tuple[str, list[_Installed]]:
    """Return the distributions of a module, and the part of its name that identifies them."""
    module, *rest = name.split(".")
    found = [each for each in installed if module in each.modules]
    for part in rest:
        if len(found) < 2 or any(f"{module}.__init__" in each.modules for each in found):
            break
        # Several distributions share a namespace package, such as `google`.
        module = f"{module}.{part}"
        found = [each for each in found if module in each.modules]
    is_namespace = not any(f"{module}.__init__" in each.modules for each in found)
    return module, [] if len(found) > 1 and is_namespace else found


def _contents(distribution: importlib.metadata.Distribution) -> frozenset[str]:
    """Return the modules of a distribution by their full names."""
    return _modules_of(
        distribution.read_text("top_level.txt") or "",
        distribution.read_text("RECORD") or distribution.read_text("installed-files.txt") or "",
    )


@lru_cache(maxsize=1024)
def _modules_of(top_level: str, record: str) -> frozenset[str]:
    modules = set(top_level.split())
    for line in record.splitlines():
        path = line.partition(",")[0]
        *folders, file = path.split("/")
        name = inspect.getmodulename(file)
        if not all(folder.isidentifier() for folder in folders):
            continue
        if folders:
            modules.add(folders[0])
        if name and name.isidentifier():
            modules.add(".".join([*folders, name]))
            modules.update(".".join(folders[:length]) for length in range(1, len(folders) + 1))
    return frozenset(modules)


def is_installed(top: str, directory: Path) -> bool:
    """Return whether pip installed a module into a directory.

    A directory of `pip install --target`, or one that a `.pth` file or PYTHONPATH names, has the
    metadata of its distributions.
    """
    parts = {"site-packages", "dist-packages"}
    if not parts.isdisjoint(directory.parts):
        return True
    try:
        has_metadata = any(_INSTALLED_METADATA.fullmatch(each.name) for each in directory.iterdir())
    except OSError:
        return False
    return has_metadata and any(
        top in _contents(each) for each in importlib.metadata.distributions(path=[str(directory)])
    )
