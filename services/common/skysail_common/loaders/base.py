"""The contract of a loader, and the surroundings that it gets.

A loader makes a function of the files of an artifact. The SDK runs the same loaders, so that the
signature that it learns is the one that replicas serve. A package adds a format by an entry point in
the group `skysail.loaders`; its name is the `loader` of the manifest.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from skysail_common.errors import InvalidInput
from skysail_common.model_functions import Function
from skysail_common.tensors import Signature

LOADERS = "skysail.loaders"
"""Group of the entry points of loaders."""


@dataclass(frozen=True)
class ModelContext:
    """The surroundings of a model, for `load(context)`."""

    files: Mapping[str, Path] = field(default_factory=dict)
    """Files and folders of `files=` by name; read-only."""
    data_directory: Path = Path()
    """Directory of the files in which the format saved the model; read-only."""
    directory: Path = Path()
    """Directory of the whole artifact."""
    device: str = "cpu"
    """Device for the model, in the notation of torch: `cpu` or `cuda:0`."""
    name: str = ""
    """Name of the model."""
    version: str = ""
    """Version of the model."""
    replica_index: int = 0
    """Index of this replica among those of the version, from 0 on."""
    num_threads: int = 1
    """Threads that the numeric libraries may use."""
    owns_process: bool = False
    """True in a replica; elsewhere the settings of libraries for a whole process stay as they are."""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("model"))
    """Logger whose events are in the log of the replica."""

    def file(self, name: str) -> Path:
        """Return the path of a file or folder that travelled by `files=`.

        Raises:
            InvalidInput: none has this name.
        """
        found = self.files.get(name)
        if found is None:
            known = ", ".join(map(repr, self.files)) or "none"
            raise InvalidInput(
                f"cannot find the file {name!r}: the model has {known}; deploy it with "
                f"files={{{name!r}: path}}"
            )
        return found

    def data(self, name: str = "") -> Path:
        """Return the path of a file of the format, or of the directory of all."""
        return self.data_directory / name


class Loader(ABC):
    """A maker of the function of one format."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Prepare a loader.

        Args:
            options: Options that the packager wrote into the manifest.
        """
        self.options = options

    @abstractmethod
    def load(self, context: ModelContext) -> Function:
        """Return the function that answers batches, called in the form of the manifest.

        A replica calls this once, before the warm-up.

        Raises:
            Exception: the replica ends with the text and the traceback; an ImportError gets the
                hint which package to add.
        """

    @property
    def hooked(self) -> Any:
        """Object of the user whose hooks `check_health` and `on_unhealthy` apply; may be None."""
        return None

    def signature(self) -> Signature | None:
        """Return the signature that the loaded model states itself; None to learn it."""
        return None

    # Most formats have nothing to release.
    def close(self) -> None:  # noqa: B027
        """Release what the model holds; the replica ends afterwards."""


def make_loader(name: str, options: Mapping[str, Any]) -> Loader:
    """Return the loader of a name with these options.

    Raises:
        InvalidInput: no installed package has a loader of this name.
    """
    by_name = {each.name: each for each in entry_points(group=LOADERS)}
    found = by_name.get(name)
    if found is None:
        known = ", ".join(sorted(by_name))
        raise InvalidInput(
            f"cannot load the model: this Skysail has no loader {name!r} ({known}); install the "
            "package that brings it, by pkgs_to_install, or a newer Skysail"
        )
    loader: Loader = found.load()(options)
    return loader
