"""The loader of model archives of TorchServe."""

import base64
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from skysail_common import __version__
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.loaders import torch_tensors
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.torchserve.context import SERVER, Context
from skysail_common.loaders.torchserve.ts_modules import (
    built_in_handler,
    check_built_in,
    missing_member,
    provide_ts,
)
from skysail_common.model_functions import Function

FOLDER = "model"
_WORKING_FOLDER = "working"
MANIFEST_FILE = "MAR-INF/MANIFEST.json"

_FIRST_ERROR = 400

_COPIED_BYTES = 1 << 20
"""Size up to which a file is copied for the handler; a larger one holds weights and is linked."""

_Error = TypeVar("_Error", bound=Exception)
Entry = Callable[[Any, Context], Any]


class TorchServeLoader(Loader):
    """The loader of an unpacked model archive."""

    @override
    def load(self, context: ModelContext) -> Function:
        folder = context.data(FOLDER).absolute()
        if context.owns_process:
            folder = _working_directory(folder, context.directory / _WORKING_FOLDER)
            os.chdir(folder)
        manifest = read_manifest(folder)
        # An archive may do without torch.
        if context.device != "cpu":
            torch_tensors.prepare(context)
        provide_ts()
        sys.path.insert(0, str(folder))
        surroundings = Context(context.name, manifest, _properties(context, folder))
        surroundings.model_yaml_config = _model_config(folder, manifest)
        surroundings.begin(1)
        try:
            entry, initialize = _entry_point(folder, str(manifest["model"]["handler"]))
            initialize(surroundings)
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "ts":
                raise _same_place(ImportError(missing_member(error)), error) from error
            raise
        except FileNotFoundError as error:
            if isinstance(error.filename, str):
                found = InvalidInput(_missing_file(error.filename, folder))
                raise _same_place(found, error) from error
            raise

        def predict(inputs: Sequence[Any]) -> list[Any]:
            surroundings.begin(len(inputs))
            answers = entry([{"body": _body(each)} for each in inputs], surroundings)
            for request in surroundings.request_processor:
                if request.status >= _FIRST_ERROR:
                    raise ModelFailed(
                        f"the handler answered with status {request.status}: {request.phrase}"
                    )
            return [_answer(each) for each in answers]

        return predict


def _working_directory(folder: Path, target: Path) -> Path:
    """Lay out an archive for its handler, which runs there and may write, and return the directory."""
    # A process that ran here before may have left its own.
    shutil.rmtree(target, ignore_errors=True)
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        own = target / file.relative_to(folder)
        own.parent.mkdir(parents=True, exist_ok=True)
        if file.stat().st_size > _COPIED_BYTES:
            own.symlink_to(file)
        else:
            shutil.copyfile(file, own)
    return target


def _same_place(error: _Error, cause: Exception) -> _Error:
    """Return an error with the traceback of its cause, which ends in the handler."""
    return error.with_traceback(cause.__traceback__)


def _missing_file(name: str, folder: Path) -> str:
    return (
        f"cannot load the model archive: the handler opens {name!r}, which is not in the archive; add "
        f"the file by torch-model-archiver --extra-files. Its directory is {folder}, which is also "
        "context.system_properties['model_dir']"
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an unpacked archive.

    Raises:
        InvalidInput: it is absent, or names no handler.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"cannot read {MANIFEST_FILE} of the model archive: {error}; make the archive again by "
            "torch-model-archiver"
        ) from error
    model = manifest.get("model") if isinstance(manifest, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("handler"), str):
        raise InvalidInput(
            f"cannot read {MANIFEST_FILE} of the model archive: it names no handler; make the "
            "archive again by torch-model-archiver --handler"
        )
    return dict(manifest)


def check_handler(folder: Path, manifest: dict[str, Any]) -> None:
    """Check that an archive has its handler, or names a built-in one.

    Raises:
        InvalidInput: it does not.
    """
    handler = manifest["model"]["handler"]
    if _handler_file(folder, handler) is None:
        check_built_in(handler)


def _handler_file(folder: Path, handler: str) -> Path | None:
    """Return the file of a handler such as `handler.py:handle`; None for a built-in one."""
    name = Path(handler.partition(":")[0]).name
    file = folder / (name if name.endswith(".py") else f"{name}.py")
    return file if file.is_file() else None


def _properties(context: ModelContext, folder: Path) -> dict[str, Any]:
    _, _, gpu = context.device.partition(":")
    return {
        "model_dir": str(folder),
        "gpu_id": None if context.device == "cpu" else int(gpu or 0),
        "batch_size": 1,
        "server_name": SERVER,
        "server_version": __version__,
        "limit_max_image_pixels": True,
    }


def _model_config(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    name = manifest["model"].get("configFile")
    if not name:
        return {}
    import yaml

    loaded = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
    return dict(loaded or {})


def _entry_point(folder: Path, handler: str) -> tuple[Entry, Callable[[Context], Any]]:
    """Return what answers requests and what initializes it, as TorchServe finds them."""
    _, _, function_name = handler.partition(":")
    file = _handler_file(folder, handler)
    if file is None:
        made = built_in_handler(handler)()
        return made.handle, made.initialize
    module = importlib.import_module(file.stem)
    function = getattr(module, function_name or "handle", None)
    if function is not None:
        return function, lambda context: function(None, context)
    made = _handler_class(module, file.name)()
    return made.handle, made.initialize


def _handler_class(module: Any, file: str) -> Any:
    own = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__ and hasattr(each, "handle")
    ]
    # A base class of another handler in the file is no handler itself.
    found = [each for each in own if not any(each in other.__mro__[1:] for other in own)]
    if len(found) != 1:
        names = ", ".join(each.__name__ for each in found) or "none"
        raise InvalidInput(
            f"cannot load the model archive: {file} must define a function handle(data, context) or "
            f"one class with handle(), and has {names}; correct the handler"
        )
    return found[0]


def _body(value: Any) -> Any:
    """Return the body of a request as TorchServe parses it: JSON as values, the rest as bytes."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value) if value.lstrip()[:1] in ("{", "[") else None
        except (ValueError, RecursionError):
            parsed = None
        return bytearray(value.encode()) if parsed is None else parsed
    if isinstance(value, (bytes, memoryview)):
        return bytearray(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _answer(value: Any) -> Any:
    if not isinstance(value, (bytes, bytearray)):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
