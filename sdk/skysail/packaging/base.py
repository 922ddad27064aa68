"""The contract of a packager, and the recognition of a model.

A packager is a function `package(source, options)`, which returns None for the models of other
formats. It recognises a model by the names of the modules of its type, or a path by its files, and
imports nothing that the user has not imported. A package adds a format by an entry point in the group
`skysail.packaging`. The module of the function may set `PRIORITY`: packagers with a lower number are
asked first.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from skysail_common.artifacts import PYTHON_LOADER
from skysail_common.loaders.base import ModelContext
from skysail_common.model_functions import Calling, Function
from skysail_common.tensors import Signature

PACKAGERS = "skysail.packaging"
"""Group of the entry points of packagers."""
DEFAULT_PRIORITY = 100

BlobSource: TypeAlias = bytes | memoryview | Path
"""Content of a file of an artifact: bytes, the buffer of an array, or a file of this machine."""


@dataclass(frozen=True)
class PackagingOptions:
    """The choices of the caller that a packager may need."""

    method: str | None = None
    """Method that answers queries; None for the usual one of the format."""


@dataclass(frozen=True)
class Packaged:
    """A model as it travels."""

    open: Callable[[ModelContext], Function] | None
    """Returns the function that answers the example on this machine; None if it cannot run here."""
    loader: str = PYTHON_LOADER
    """Name of the loader in replicas."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the loader, as JSON."""
    pickled: Any = None
    """Object that travels as a pickle; only for the loader `python`."""
    data: Mapping[str, BlobSource] = field(default_factory=dict)
    """Files that the loader reads, by their path below `ModelContext.data`; a folder travels whole."""
    imports: frozenset[str] = frozenset()
    """Modules that the files refer to, or their members; local ones travel."""
    requirements: tuple[str, ...] = ()
    """Packages that the model needs, pinned to the versions that saved it."""
    pins_packages: bool = False
    """True to require, besides `requirements`, the packages of the pickle or of `imports` too."""
    python_version: str | None = None
    """Python whose pickles the files hold, such as 3.11.7; None without pickles."""
    signature: Signature | None = None
    """Inputs and outputs, if the format states them."""
    calling: Calling = "mapping"
    """Form of the arguments, if the format states the signature."""
    takes_params: bool = False
    """True if the model gets the parameters of queries, if the format states the signature."""
    example: Any = None
    """Example that came with the model."""
    no_example: str = (
        "its signature is not known; give example=X[:2], a batch of inputs that it can answer"
    )
    """Cause and fix of a model without an example, for the error of a format that needs one."""
    temporary: tuple[TemporaryDirectory[str], ...] = ()
    """Directories that are removed after the upload."""


Packager = Callable[[Any, PackagingOptions], Packaged | None]


@lru_cache(maxsize=1)
def _packagers() -> tuple[Packager, ...]:
    """Return the packagers of all installed packages, in the order in which they are asked."""
    found = [(each.name, each.load()) for each in entry_points(group=PACKAGERS)]
    return tuple(packager for _, packager in sorted(found, key=_rank))


def _rank(entry: tuple[str, Packager]) -> tuple[int, str]:
    name, packager = entry
    module = sys.modules[packager.__module__]
    return getattr(module, "PRIORITY", DEFAULT_PRIORITY), name


def recognise(source: Any, options: PackagingOptions) -> Packaged:
    """Return how a model travels.

    Args:
        source: A function, an object or class with `predict`, a model of a library, or the path of a
            file or folder.
        options: Choices of the caller.

    Raises:
        InvalidInput: no packager recognises the model, or it cannot be deployed; the message says
            why.
    """
    for packager in _packagers():
        packaged = packager(source, options)
        if packaged is not None:
            return packaged
    raise AssertionError("the packager of Python objects recognises or refuses everything")


def type_modules(source: Any) -> frozenset[str]:
    """Return the names of the top-level modules that define the type of an object and its bases."""
    return frozenset(cls.__module__.partition(".")[0] for cls in type(source).__mro__)
