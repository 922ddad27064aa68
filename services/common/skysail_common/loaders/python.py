"""The loader of pickled models: functions, and classes or objects with `predict`."""

import inspect
import itertools
import mmap
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from skysail_common.artifacts import MODEL_FILE, buffer_file
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.native_models import open_native_model
from skysail_common.model_functions import Function
from skysail_common.process.coroutine_thread import finished

_MAX_MAPPED = 512
"""Most mapped buffers, the largest ones. Each needs a descriptor, and many processes may have only
1024 of them."""


class PythonLoader(Loader):
    """The loader of `model.pkl`.

    Options:
        method: Method that answers; absent for a function.
        model: File in `data` of a model that the function takes first, with its `kind` and
            `class_name`; absent for a function that takes only inputs.
    """

    _model: Any = None

    @override
    def load(self, context: ModelContext) -> Function:
        with (context.directory / MODEL_FILE).open("rb") as file:
            loaded = pickle.load(file, buffers=mapped_buffers(context.directory))
        self._model = loaded
        if native := self.options.get("model"):
            path = context.data(native["path"])
            return partial(loaded, *open_native_model(native["kind"], path, native["class_name"]))
        if "method" not in self.options:
            function: Function = loaded
            return function
        self._model = opened(loaded, context)
        method: Function = getattr(self._model, self.options["method"])
        return method

    @property
    @override
    def hooked(self) -> Any:
        return self._model

    @override
    def close(self) -> None:
        close = getattr(self._model, "close", None)
        if "method" in self.options and callable(close):
            finished(close())


def mapped_buffers(directory: Path) -> Iterator[mmap.mmap | bytearray]:
    """Yield the buffers of the pickle in a directory of an artifact.

    Replicas share the pages of a mapped file. The model may write to them: a written page becomes a
    copy.
    """
    paths = map(directory.joinpath, map(buffer_file, itertools.count()))
    sizes = {path: path.stat().st_size for path in itertools.takewhile(Path.exists, paths)}
    mapped = set(sorted(sizes, key=lambda path: sizes[path])[-_MAX_MAPPED:])
    for path, size in sizes.items():
        with path.open("rb") as file:
            if path in mapped:
                yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            else:
                content = bytearray(size)
                file.readinto(content)
                yield content


def opened(model: Any, context: ModelContext) -> Any:
    """Return an object of a class, or the object itself, after its `load(context)` if it has one."""
    made = model() if inspect.isclass(model) else model
    load = getattr(made, "load", None)
    if callable(load):
        finished(load(context))
    return made
