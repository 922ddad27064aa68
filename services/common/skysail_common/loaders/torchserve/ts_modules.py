"""The modules of `ts` that handlers import, for replicas without TorchServe."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from skysail_common.errors import InvalidInput

_HERE = "skysail_common.loaders.torchserve"
_PACKAGES = ("ts", "ts.torch_handler", "ts.utils")
_MEMBERS = {
    "ts.context": ("context", ("Context", "RequestProcessor")),
    "ts.torch_handler.base_handler": ("handlers", ("BaseHandler",)),
    "ts.torch_handler.vision_handler": ("image_handlers", ("VisionHandler",)),
    "ts.torch_handler.image_classifier": ("image_handlers", ("ImageClassifier",)),
    "ts.utils.util": (
        "handlers",
        ("list_classes_from_module", "load_label_mapping", "map_class_to_label"),
    ),
}
_BUILT_IN = {
    "base_handler": ("handlers", "BaseHandler"),
    "image_classifier": ("image_handlers", "ImageClassifier"),
}
"""Handlers that an archive may name in place of a file of its own."""


def provide_ts() -> None:
    """Make `import ts…` work for the documented names; do nothing if TorchServe is installed."""
    if "ts" in sys.modules or importlib.util.find_spec("ts") is not None:
        return
    for name in _PACKAGES:
        _add(name).__path__ = []
    for name, (home, members) in _MEMBERS.items():
        _add(name).__dict__["__getattr__"] = _reader(name, home, members)


def _add(name: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name, "What Skysail offers of TorchServe.")
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return module


def _reader(module: str, home: str, members: tuple[str, ...]) -> Callable[[str], Any]:
    """Return a `__getattr__` that imports a member on its first use.

    Only handlers that use torch need it, and only those of images need torchvision.
    """

    def read(name: str) -> Any:
        if name not in members:
            raise AttributeError(
                f"module {module!r} has no attribute {name!r}; Skysail offers {', '.join(members)}"
            )
        return getattr(importlib.import_module(f"{_HERE}.{home}"), name)

    return read


def missing_member(error: ImportError) -> str:
    """Return the message for an import from `ts` that failed."""
    return (
        f"cannot load the model archive: its handler imports what Skysail does not offer of "
        f"TorchServe: {error}; Skysail offers {', '.join(_MEMBERS)}. For the others, deploy with "
        "pkgs_to_install=['torchserve', 'captum']"
    )


def check_built_in(name: str) -> None:
    """Check that a handler exists which an archive names.

    Raises:
        InvalidInput: there is none of this name.
    """
    if name not in _BUILT_IN:
        raise InvalidInput(
            f"cannot load the model archive: it names the handler {name!r}, which is neither a file "
            f"of the archive nor one of {', '.join(_BUILT_IN)}; archive it with a handler file"
        )


def built_in_handler(name: str) -> Any:
    """Return the class of a handler that an archive names.

    Raises:
        InvalidInput: there is none of this name.
    """
    check_built_in(name)
    home, member = _BUILT_IN[name]
    return getattr(importlib.import_module(f"{_HERE}.{home}"), member)
