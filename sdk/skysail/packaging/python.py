"""The packager of functions, and of classes and objects with `predict`.

It comes last, and refuses what no packager recognises.
"""

import copy
import inspect
from pathlib import Path
from typing import Any

from skysail.artifact.signature_inference import check_callable
from skysail.packaging.base import Packaged, PackagingOptions
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.python import opened
from skysail_common.model_functions import Function

PRIORITY = 1000

_METHOD = "predict"


def package(source: Any, options: PackagingOptions) -> Packaged:
    """Return how a function, object or class travels: as a pickle.

    Raises:
        InvalidInput: it is none of these; the message says what to deploy.
    """
    if isinstance(source, (str, Path)):
        raise _unknown_path(Path(source))
    method = options.method
    if method is None and _is_model(source):
        method = _METHOD
    if method is None:
        check_callable(source)
        return Packaged(open=lambda context: source, pickled=source)
    if not callable(getattr(source, method, None)):
        raise InvalidInput(
            f"cannot deploy {_name(source)}: it has no method {method!r}; its methods are "
            f"{', '.join(_methods(source)) or 'none'}"
        )
    check_callable(getattr(source, method))

    def open_model(context: ModelContext) -> Function:
        # `load` must not change the object of the user.
        made = source if inspect.isclass(source) else copy.copy(source)
        function: Function = getattr(opened(made, context), method)
        return function

    return Packaged(open=open_model, pickled=source, options={"method": method})


def _is_model(source: Any) -> bool:
    """Return whether an object or class answers by its `predict`, and not by a call."""
    if not callable(getattr(source, _METHOD, None)):
        return False
    return inspect.isclass(source) or hasattr(source, "load") or not callable(source)


def _methods(source: Any) -> list[str]:
    names = (name for name in dir(type(source)) if not name.startswith("_"))
    return [name for name in names if callable(getattr(source, name, None))]


def _name(source: Any) -> str:
    return str(getattr(source, "__qualname__", type(source).__name__))


def _unknown_path(path: Path) -> InvalidInput:
    if not path.exists():
        return InvalidInput(
            f"cannot deploy {path}: no file or folder has this path; check the path"
        )
    return InvalidInput(
        f"cannot deploy {path}: no format is known for it; deploy a class whose load(context) reads "
        f"it, with files={{{path.name!r}: {str(path)!r}}}"
    )
