"""Local modules of the user that a function needs, and that travel with it as files."""

import importlib.util
import site
import sys
import sysconfig
import traceback
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import FrameType, ModuleType

from skysail.artifact.distributions import is_installed
from skysail.artifact.imports import Imports, read_imports
from skysail.artifact.package_files import FileBudget, package_files
from skysail_common.errors import InvalidInput

# The pickle contains the definitions of __main__. Replicas have Skysail, even if this machine has an
# editable installation of it.
_NEVER_SENT = frozenset({
    "__main__", "skysail", "skysail_common", "skysail_frontend", "skysail_management",
    "skysail_model_server", "skysail_protos",
})  # fmt: skip


@dataclass(frozen=True)
class LocalModules:
    """The local modules that a function needs."""

    files: dict[str, bytes]
    """Sources and data files of packages, by path."""
    imports: frozenset[str]
    """Modules that the local modules import unconditionally."""


def local_modules(names: Collection[str]) -> LocalModules:
    """Return the local modules among those named, with the local modules that they import.

    Local modules are outside of the standard library and the installed packages, loaded or not. All
    files of a package travel.

    Raises:
        InvalidInput: a module is compiled, or the files are too large.
    """
    search = _Search()
    for name in sorted(names):
        search.reach(name)
    return search.result()


class _Search:
    """A traversal of imports from module to module."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._needed: set[str] = set()
        self._tops: dict[str, bool] = {}
        self._reached: set[str] = set()
        self._budget = FileBudget()

    def result(self) -> LocalModules:
        return LocalModules(self._files, frozenset(self._needed))

    def reach(self, name: str) -> None:
        """Add a module, or the module of a member, and its imports."""
        pending = [name]
        while pending:
            full = pending.pop()
            if full in self._reached:
                continue
            self._reached.add(full)
            top, _, rest = full.partition(".")
            if not top or not self._is_sent(top):
                continue
            if rest:
                # An import of a module imports its parents first.
                pending.append(full.rpartition(".")[0])
            else:
                pending.extend(_loaded_below(top))
            imports = self._imports(full)
            pending.extend(sorted(imports.all))
            self._needed |= imports.unconditional

    def _is_sent(self, top: str) -> bool:
        if top not in self._tops:
            self._tops[top] = self._send(top)
        return self._tops[top]

    def _send(self, top: str) -> bool:
        if top in _NEVER_SENT or top in sys.stdlib_module_names:
            return False
        file, directories = _location(top)
        if file is None:
            # A package without __init__.py has only directories.
            local = [Path(path) for path in directories if _is_local(top, Path(path).parent)]
        elif not _is_local(top, _root(Path(file))):
            return False
        elif Path(file).stem == "__init__":
            local = [Path(file).parent]
        elif Path(file).suffix == ".py":
            content = Path(file).read_bytes()
            self._budget.take(f"{top}.py", len(content))
            self._files[f"{top}.py"] = content
            return True
        elif file.endswith(tuple(EXTENSION_SUFFIXES)):
            raise _is_compiled(top, file)
        else:
            return False
        if local:
            _refuse_loaded_extensions(top)
        for directory in local:
            self._files.update(package_files(top, directory, self._budget))
        return bool(local)

    def _imports(self, full: str) -> Imports:
        path = full.replace(".", "/")
        if (source := self._files.get(f"{path}/__init__.py")) is not None:
            return read_imports(source, full)
        if (source := self._files.get(f"{path}.py")) is not None:
            return read_imports(source, full.rpartition(".")[0])
        compiled = next((end for end in EXTENSION_SUFFIXES if f"{path}{end}" in self._files), None)
        if compiled is not None:
            raise _is_compiled(full, f"{path}{compiled}")
        return Imports()


def _is_compiled(name: str, file: str) -> InvalidInput:
    return InvalidInput(
        f"cannot send the local module {name!r} with the function: {Path(file).name} is compiled for "
        "this machine; build a wheel of it and name that in pkgs_to_install"
    )


def _refuse_loaded_extensions(top: str) -> None:
    """Reject a package with compiled modules before reading its files, which may take minutes."""
    for name in _loaded_below(top):
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.endswith(tuple(EXTENSION_SUFFIXES)):
            raise _is_compiled(name, file)


def _loaded_below(top: str) -> list[str]:
    """Return the loaded modules of a package, including those imported by computed names."""
    return [name for name in sorted(sys.modules) if name.startswith(f"{top}.")]


def find_local_module(module: ModuleType) -> tuple[Path, Path] | None:
    """Return the directory of `sys.path` that contains a local module, and its file.

    The result is None if the module is not local, or has no source file.
    """
    top = module.__name__.partition(".")[0]
    file = getattr(module, "__file__", None)
    if file is None or Path(file).suffix != ".py" or top in _NEVER_SENT | sys.stdlib_module_names:
        return None
    path = Path(file).absolute()
    depth = module.__name__.count(".") + (path.name == "__init__.py")
    root = path.parents[depth]
    expected = Path(*module.__name__.split("."))
    if path.relative_to(root).with_suffix("") not in (expected, expected / "__init__"):
        return None
    return (root, path) if _is_local(top, root) else None


def _root(file: Path) -> Path:
    return file.parent.parent if file.stem == "__init__" else file.parent


def _is_local(top: str, directory: Path) -> bool:
    """Return whether a module in a directory belongs to the user."""
    return not _is_below(directory.resolve()) and not is_installed(top, directory)


def _is_below(path: Path) -> bool:
    return any(path == base or base in path.parents for base in _installed_directories())


@lru_cache(maxsize=1)
def _installed_directories() -> frozenset[Path]:
    return frozenset({
        *(Path(part).resolve() for part in site.getsitepackages()),
        Path(site.getusersitepackages()).resolve(),
        *(
            Path(sysconfig.get_path(name)).resolve()
            for name in ("stdlib", "platstdlib", "purelib", "platlib")
        ),
    })  # fmt: skip


def own_frames(error: BaseException) -> str:
    """Return the part of a traceback that is in modules of the user."""
    frames = traceback.walk_tb(error.__traceback__)
    own = ((frame, line) for frame, line in frames if _is_own(frame))
    return "".join(traceback.StackSummary.extract(own).format())


def _is_own(frame: FrameType) -> bool:
    top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    is_ours = top in _NEVER_SENT and top != "__main__"
    is_known = is_ours or top in sys.stdlib_module_names
    return not is_known and not _is_below(Path(frame.f_code.co_filename).resolve())


def _location(top: str) -> tuple[str | None, Iterable[str]]:
    """Return the file of a module and the directories of a package, loaded or not."""
    module = sys.modules.get(top)
    if module is not None:
        return getattr(module, "__file__", None), getattr(module, "__path__", ())
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None, ()
    if spec is None or spec.origin in ("built-in", "frozen"):
        return None, ()
    return spec.origin, spec.submodule_search_locations or ()
