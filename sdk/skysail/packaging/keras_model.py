"""The packager of models of Keras, in memory or in a `.keras` file."""

import json
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.pins import has_distribution, is_installed, pinned
from skysail.packaging.saved_files import path_of, temporary_directory
from skysail_common.artifacts import PYTHON_LOADER
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.keras_model import (
    KERAS_FILE,
    KerasModel,
    model_function,
    model_signature,
)
from skysail_common.model_functions import Function

_EPOCH = (1980, 1, 1, 0, 0, 0)
_METADATA_FILE = "metadata.json"

_BACKENDS = {"tensorflow": ("tensorflow-cpu", "tensorflow"), "torch": ("torch",), "jax": ("jax",)}
"""Distributions of each backend, the first one being the default."""


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a model travels: as a `.keras` file, with the classes of the user that it needs.

    Raises:
        InvalidInput: a method is given, or the model cannot be saved.
    """
    path = path_of(source)
    if path is not None and (path.suffix != ".keras" or not path.is_file()):
        return None
    if path is None and not _is_model(source):
        return None
    if options.method:
        raise InvalidInput(
            f"cannot deploy the Keras model by method={options.method!r}: it answers by its call; "
            "leave method out, or deploy a function"
        )
    if path is not None:
        return _of_file(path)
    with temporary_directory() as directory:
        return replace(_of_object(source, Path(directory.name)), temporary=(directory,))


def _of_object(model: Any, directory: Path) -> Packaged:
    import keras

    saved = directory / KERAS_FILE
    model.save(saved)
    _remove_times(saved)
    function, backend = model_function(model), keras.config.backend()
    packaged = Packaged(
        open=lambda context: function,
        loader="keras",
        # The user made the lambda layers of a model in memory.
        options={"backend": backend, "safe_mode": False},
        data={KERAS_FILE: saved},
        requirements=(*pinned("keras"), *_backend(backend)),
        signature=model_signature(model),
    )
    own = _custom_objects(model)
    if not own:
        return packaged
    return replace(
        packaged,
        loader=PYTHON_LOADER,
        options={"method": "predict"},
        pickled=KerasModel(backend, own),
    )


def _is_model(source: Any) -> bool:
    if "keras" not in type_modules(source):
        return False
    keras = sys.modules.get("keras")
    return keras is not None and isinstance(source, keras.Model)


def _of_file(path: Path) -> Packaged:
    model = None
    backend = "tensorflow"
    if is_installed("keras"):
        import keras

        backend = keras.config.backend()
        try:
            model = keras.saving.load_model(path, compile=False)
        except (TypeError, ValueError, OSError) as error:
            raise InvalidInput(
                f"cannot deploy {path}: {error}; load it here, and deploy the model"
            ) from error
    function = None if model is None else model_function(model)

    def open_model(context: ModelContext) -> Function:
        assert function is not None
        return function

    return Packaged(
        open=None if function is None else open_model,
        loader="keras",
        options={"backend": backend},
        data={KERAS_FILE: path},
        requirements=(*pinned("keras"), *_backend(backend)),
        signature=None if model is None else model_signature(model),
    )


def _backend(name: str) -> tuple[str, ...]:
    choices = _BACKENDS.get(name, (name,))
    return pinned(next(filter(has_distribution, choices), choices[0]))


def _custom_objects(model: Any) -> dict[str, Any]:
    """Return the classes of the layers that Keras itself does not know, by name."""
    classes = {type(each) for each in model._flatten_layers()}
    own = [each for each in classes if each.__module__.partition(".")[0] != "keras"]
    return {each.__name__: each for each in sorted(own, key=lambda cls: cls.__qualname__)}


def _remove_times(path: Path) -> None:
    """Write the archive again without times, so that equal models have an equal SHA-256."""
    fresh = path.with_suffix(".fresh")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(fresh, "w") as out:
        for name in sorted(archive.namelist()):
            info = zipfile.ZipInfo(name, _EPOCH)
            with archive.open(name) as source, out.open(info, "w", force_zip64=True) as target:
                if name == _METADATA_FILE:
                    metadata = json.loads(source.read())
                    metadata.pop("date_saved", None)
                    target.write(json.dumps(metadata, sort_keys=True).encode())
                else:
                    while chunk := source.read(1 << 20):
                        target.write(chunk)
    fresh.replace(path)
