"""The loader of pickled models: functions, and classes or objects with `predict`."""

import inspect
import pickle
from typing import Any

from typing_extensions import override

from skysail_common.artifacts import MODEL_FILE
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.model_functions import Function
from skysail_common.process.coroutine_thread import finished


class PythonLoader(Loader):
    """The loader of `model.pkl`.

    Options:
        method: Method that answers; absent for a function.
    """

    _model: Any = None

    @override
    def load(self, context: ModelContext) -> Function:
        with (context.directory / MODEL_FILE).open("rb") as file:
            loaded = pickle.load(file)
        self._model = loaded
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


def opened(model: Any, context: ModelContext) -> Any:
    """Return an object of a class, or the object itself, after its `load(context)` if it has one."""
    made = model() if inspect.isclass(model) else model
    load = getattr(made, "load", None)
    if callable(load):
        finished(load(context))
    return made
