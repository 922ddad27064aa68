"""The packager of models of catboost."""

from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions
from skysail.packaging.saved_models import chosen_method, package_saved
from skysail_common.loaders.catboost import MODEL_DATA, CatboostLoader

_METHODS = ("predict", "predict_log_proba", "predict_proba")


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a model travels: as the library saves it.

    Raises:
        InvalidInput: it is not fitted, or has no method of the name given.
    """
    if type(source).__module__ != "catboost.core" or not hasattr(source, "save_model"):
        return None
    method = chosen_method(source, options.method, ["predict"], _METHODS)
    chosen = {"class": type(source).__name__, "method": method}
    modules = {"catboost", "numpy", "pandas"}
    return package_saved(
        source, source.save_model, MODEL_DATA, CatboostLoader, "catboost", chosen, modules
    )
