"""The packager of functions that take a model of a library as their first argument.

The function travels as a pickle, and the model in the files of its library. `skysail.deployers` makes
such functions.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.native_models import open_native_model
from skysail_common.model_functions import Function

PRIORITY = 0


@dataclass(frozen=True)
class FunctionOfModel:
    """A function, and the files of the model that it takes first."""

    function: Callable[..., Any]
    kind: str
    """Kind of the model, as in `open_native_model`."""
    path: Path
    """File or folder of the model."""
    class_name: str = ""
    """Full name of the class of a Spark model."""
    requirements: tuple[str, ...] = ()
    temporary: TemporaryDirectory[str] | None = field(default=None, compare=False)
    """Directory of the files, if they were written for the deploy."""


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a function of a model travels; None for anything else."""
    if not isinstance(source, FunctionOfModel):
        return None
    arguments = {"kind": source.kind, "class_name": source.class_name}

    def open_model(context: ModelContext) -> Function:
        return partial(source.function, *open_native_model(path=source.path, **arguments))

    return Packaged(
        open=open_model,
        pickled=source.function,
        options={"model": {**arguments, "path": source.path.name}},
        data={source.path.name: source.path},
        requirements=source.requirements,
        temporary=(source.temporary,) if source.temporary else (),
    )
