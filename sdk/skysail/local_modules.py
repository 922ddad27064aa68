"""Finds the user's own modules that a function needs: they travel with it as source files."""

import ast
import importlib.metadata
import importlib.util
import inspect
import site
import sys
import sysconfig
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from skysail_common.errors import InvalidInput

_MAX_MODULE_BYTES = 64 * 1024 * 1024

# What is defined in __main__ is in the pickle; Skysail is where replicas run, also where it is
# installed from its sources here.
_NEVER_SENT = frozenset({
    "__main__", "skysail", "skysail_common", "skysail_frontend", "skysail_management",
    "skysail_model_server", "skysail_protos",
})  # fmt: skip


def local_modules(names: Collection[str]) -> dict[str, bytes]:
    """Return the sources of the user's own modules among those named, by path.

    Those are modules outside the standard library and the installed packages; with each come the
    ones that it imports itself, whether or not they are loaded already.
    """
    sources: dict[str, bytes] = {}
    pending = list(names)
    seen: set[str] = set()
    while pending:
        top = pending.pop().partition(".")[0]
        # A relative import has no name.
        if not top or top in seen:
            continue
        seen.add(top)
        for path, source in _sources_of(top):
            sources[path] = source
            pending.extend(_imported_names(source))
    if sum(map(len, sources.values())) > _MAX_MODULE_BYTES:
        raise InvalidInput(
            "the modules that the function needs are larger than 64 MiB; install them as a package"
        )
    return sources


def _sources_of(top: str) -> Iterator[tuple[str, bytes]]:
    if top in _NEVER_SENT:
        return
    file, locations = _location(top)
    if file is None:
        # A package without __init__.py has only directories.
        directories = [Path(path) for path in locations]
    elif Path(file).name == "__init__.py":
        directories = [Path(file).parent]
    elif Path(file).suffix == ".py" and _is_local(Path(file)):
        yield f"{top}.py", Path(file).read_bytes()
        return
    else:
        return
    for directory in directories:
        if _is_local(directory):
            for path in sorted(directory.rglob("*.py")):
                relative = path.relative_to(directory)
                yield f"{top}/{relative.as_posix()}", path.read_bytes()


def _is_local(path: Path) -> bool:
    path = path.resolve()
    installed = {
        *(Path(part).resolve() for part in site.getsitepackages()),
        Path(site.getusersitepackages()).resolve(),
        *(
            Path(sysconfig.get_path(name)).resolve()
            for name in ("stdlib", "platstdlib", "purelib", "platlib")
        ),
    }
    return not any(path == base or base in path.parents for base in installed)


def own_frames(error: BaseException) -> str:
    """Return the part of an error's traceback that is in the user's own modules."""
    frames = traceback.walk_tb(error.__traceback__)
    own = ((frame, line) for frame, line in frames if _is_own(frame))
    return "".join(traceback.StackSummary.extract(own).format())


def _is_own(frame: FrameType) -> bool:
    top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    is_ours = top in _NEVER_SENT and top != "__main__"
    is_known = is_ours or top in sys.stdlib_module_names
    return not is_known and _is_local(Path(frame.f_code.co_filename))


def _location(top: str) -> tuple[str | None, Iterable[str]]:
    """Return the file of a module and the directories of a package, whether loaded or not."""
    module = sys.modules.get(top)
    if module is not None:
        return getattr(module, "__file__", None), getattr(module, "__path__", ())
    spec = importlib.util.find_spec(top)
    return (spec.origin, spec.submodule_search_locations or ()) if spec else (None, ())


def _parsed(source: bytes) -> ast.Module:
    try:
        return ast.parse(source)
    except SystemError:
        # Pythons before 3.13 count the depth of threads that parse at the same time together, and
        # now and then find it wrong (gh-106905).
        return ast.parse(source)


def _imported_names(source: bytes) -> set[str]:
    try:
        tree = _parsed(source)
    except (SyntaxError, ValueError):
        # A file of the package that is no Python of this version; nothing imports it here.
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def needed_packages(names: Collection[str], sources: Mapping[str, bytes]) -> dict[str, str]:
    """Return the installed distributions that hold modules, with their versions.

    Args:
        names: Modules that a function needs.
        sources: The user's own modules; what they import is needed too.
    """
    needed = set(names).union(*map(_imported_names, sources.values()))
    tops = {name.partition(".")[0] for name in needed}
    found = {
        distribution.metadata["Name"]: distribution.version
        for distribution in importlib.metadata.distributions()
        if not tops.isdisjoint(_top_modules(distribution))
    }
    return {name: found[name] for name in sorted(found) if name != "skysail"}


def _top_modules(distribution: importlib.metadata.Distribution) -> set[str]:
    # importlib's packages_distributions() knows only some of them before Python 3.11, and looks for
    # each file on disk since 3.12.
    tops = set((distribution.read_text("top_level.txt") or "").split())
    for line in (distribution.read_text("RECORD") or "").splitlines():
        first, slash, _ = line.partition(",")[0].partition("/")
        name = first if slash else inspect.getmodulename(first)
        if name and name.isidentifier():
            tops.add(name)
    return tops
