"""Folders of MLflow, by their flavor `python_function`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.model_functions import Function

MODEL_DATA = "model"


class MlflowLoader(Loader):
    """The loader of a folder that MLflow saved.

    Options:
        params: True if the signature of the model has parameters.
    """

    @override
    def load(self, context: ModelContext) -> Function:
        return function_of_folder(context.data(MODEL_DATA), has_params=self.options["params"])


def function_of_folder(folder: Path, *, has_params: bool) -> Function:
    """Return the function of a data frame, array or arrays by name that a model is.

    Args:
        folder: Folder of the model.
        has_params: True if the function takes the parameters of a query as `params`.
    """
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(folder))
    if not has_params:
        return lambda X: model.predict(X)

    def predict(X: Any, *, params: Mapping[str, Any] | None = None) -> Any:
        return model.predict(X, params=dict(params or {}))

    return predict
