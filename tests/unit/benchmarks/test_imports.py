import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NEEDS_TRANSPORT = ("skysail_transport", "skysail_common.rpc.native")
MODULES = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "examples").rglob("[!_]*.py")]


def imports(module: Path) -> list[tuple[str, str]]:
    """Return the names that a module imports from Skysail, each with the module that has it."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skysail")
        for alias in node.names
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_that_a_benchmark_imports_exist(module: Path):
    # Most benchmarks run in no test, and some need packages that are not installed.
    names = imports(module)
    if any(source.startswith(NEEDS_TRANSPORT) for source, _ in names):
        pytest.importorskip("skysail_transport", reason="native transport is not installed")
    for source, name in names:
        found = importlib.import_module(source)
        assert hasattr(found, name) or importlib.util.find_spec(f"{source}.{name}"), (source, name)
