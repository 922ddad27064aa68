"""Files in which formats save their models."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.model_functions import Function


def path_of(source: Any) -> Path | None:
    """Return the path that a model is; None for an object, or if nothing has that path."""
    if not isinstance(source, (str, PathLike)):
        return None
    path = Path(source).expanduser()
    return path if path.exists() else None


@contextmanager
def temporary_directory() -> Iterator[TemporaryDirectory[str]]:
    """Make a directory for files that travel, which stays unless the block fails."""
    directory = TemporaryDirectory(prefix="skysail-model-")
    with removed_on_failure([directory]):
        yield directory


@contextmanager
def removed_on_failure(directories: Iterable[TemporaryDirectory[str]]) -> Iterator[None]:
    """Remove directories if the block fails."""
    try:
        yield
    except BaseException:
        for directory in directories:
            directory.cleanup()
        raise


def opened_by(loader: Loader, directory: Path) -> Callable[[ModelContext], Function]:
    """Return what opens the files of a directory by a loader, as a replica does."""
    return lambda context: loader.load(replace(context, data_directory=directory.absolute()))
