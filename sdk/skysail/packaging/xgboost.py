"""The packager of models of xgboost."""

import math
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions
from skysail.packaging.saved_models import chosen_method, package_saved
from skysail_common.loaders.xgboost import MODEL_DATA, XgboostLoader


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a booster or estimator travels: as the library saves it.

    Raises:
        InvalidInput: it is not fitted, or has no method of the name given.
    """
    kind = type(source)
    # An object of a class that extends one of the library travels as a pickle.
    if kind.__module__ not in ("xgboost.core", "xgboost.sklearn"):
        return None
    if not hasattr(source, "save_model"):
        return None
    chosen: dict[str, Any] = {"class": kind.__name__}
    modules = {"numpy", "xgboost"}
    if kind.__name__ == "Booster":
        chosen_method(source, options.method, ["predict"], ["predict"])
    else:
        chosen["method"] = chosen_method(source, options.method, ["predict"])
        modules.add("sklearn")
        # The library does not save it.
        if not math.isnan(source.missing):
            chosen["missing"] = float(source.missing)
    return package_saved(
        source, source.save_model, MODEL_DATA, XgboostLoader, "xgboost", chosen, modules
    )
