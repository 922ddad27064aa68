"""Object references: objects of the user that a command names as module:name."""

import importlib
import operator
import sys
from pathlib import Path
from typing import Any

from skysail_common.errors import InvalidInput


def load_source(text: str) -> Any:
    """Return the model that a text names: an object, a path, or a URI such as `models:/name@alias`.

    Raises:
        InvalidInput: the object does not exist, or its module fails to import.
    """
    if Path(text).exists():
        return Path(text)
    # No object has a slash after the colon. Packagers know the schemes.
    return text if ":/" in text else load_object(text, "model")


def load_object(text: str, what: str) -> Any:
    """Return the object that `module:name` names; the current directory comes first.

    Raises:
        InvalidInput: the object does not exist, or its module fails to import.
    """
    module_name, colon, path = text.partition(":")
    if not colon or not module_name or not path:
        raise InvalidInput(f"{what} {text!r} must have the form module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    if module_name.endswith(".py"):
        name = module_name.removesuffix(".py").lstrip("./").replace("/", ".")
        raise InvalidInput(
            f"{what} {text!r} must have the form module:name; write {name}:{path} for that file"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InvalidInput(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    try:
        return operator.attrgetter(path)(module)
    except AttributeError:
        raise InvalidInput(f"module {module_name!r} has no {path!r}") from None
