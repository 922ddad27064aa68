"""Files of pickle and joblib."""

import pickle
from pathlib import Path
from typing import Any

from typing_extensions import override

from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.tables import EstimatorFunction
from skysail_common.model_functions import Function


class PickleFileLoader(Loader):
    """The loader of an object in a file.

    Options:
        file: Name of the file.
        joblib: True if joblib wrote it.
        compressed: True if it is compressed.
        method: Method that answers; absent for `predict`, or for the call of an object without it.
    """

    @override
    def load(self, context: ModelContext) -> Function:
        loaded = self._object(context.data(self.options["file"]))
        method = self.options.get("method")
        if method is None and not hasattr(loaded, "predict") and callable(loaded):
            function: Function = loaded
            return function
        method = method or "predict"
        if not hasattr(loaded, method):
            raise InvalidInput(
                f"cannot load {self.options['file']}: it holds a {type(loaded).__name__} without a "
                f"method {method!r}; give method= another one"
            )
        return EstimatorFunction(loaded, method)

    def _object(self, path: Path) -> Any:
        if not self.options["joblib"]:
            with path.open("rb") as file:
                return pickle.load(file)
        import joblib

        # Replicas share the memory of arrays, until one of them writes.
        return joblib.load(path, mmap_mode=None if self.options["compressed"] else "c")
