import functools
import importlib
import importlib.metadata
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _distributions_are_read_once() -> Iterator[None]:
    # Each artifact reads the installed packages, which takes longer than everything else.
    with pytest.MonkeyPatch.context() as patch:
        read = functools.lru_cache(importlib.metadata.packages_distributions)
        patch.setattr(importlib.metadata, "packages_distributions", read)
        yield


@pytest.fixture
def user_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on `sys.path`; the fixture unloads its modules afterwards."""
    directory = tmp_path / "user"
    directory.mkdir()
    loaded = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    yield directory
    for name in set(sys.modules) - loaded:
        if str(directory) in str(getattr(sys.modules[name], "__spec__", "")):
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def write(user_dir: Path) -> Callable[[str, str], Path]:
    """Writes a module of the user."""

    def write(path: str, source: str = "") -> Path:
        file = user_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return file

    return write
