"""Imports of a source file."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from skysail.artifact.code_objects import resolved_names


@dataclass(frozen=True)
class Imports:
    """The imports of a module, as full names of modules or of their members."""

    all: frozenset[str] = frozenset()
    """All imports, including those in functions and in a `try`, without those for type checkers."""
    unconditional: frozenset[str] = frozenset()
    """Imports that run whenever the module is imported."""


def read_imports(source: bytes, package: str) -> Imports:
    """Return the imports of a source file.

    Args:
        source: Content of the file; a file that does not parse has no imports.
        package: Package of the relative imports; empty if there is none.
    """
    try:
        tree = _parsed(source)
    except (SyntaxError, ValueError, RecursionError):
        return Imports()
    found: set[str] = set()
    unconditional: set[str] = set()
    for node, is_certain in _statements(tree.body, is_certain=True):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = tuple(alias.name for alias in node.names)
            names = resolved_names(node.module or "", node.level, members, package)
        else:
            continue
        found |= names
        if is_certain:
            unconditional |= names
    return Imports(frozenset(found), frozenset(unconditional))


def _statements(body: list[ast.stmt], is_certain: bool) -> Iterator[tuple[ast.stmt, bool]]:
    for node in body:
        yield node, is_certain
        if isinstance(node, ast.If):
            if not _is_for_type_checkers(node.test):
                yield from _statements(node.body, is_certain=False)
            yield from _statements(node.orelse, is_certain=False)
            continue
        runs_at_import = isinstance(node, (ast.ClassDef, ast.With))
        for part in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(node, part, []), is_certain and runs_at_import)
        for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from _statements(part.body, is_certain=False)


def _is_for_type_checkers(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def _parsed(source: bytes) -> ast.Module:
    try:
        return ast.parse(source)
    except SystemError:
        # Python before 3.13 shares the recursion counter of the parser between threads, and sometimes
        # reports a wrong depth (gh-106905).
        return ast.parse(source)
