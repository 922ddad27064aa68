"""The packager of models of lightgbm."""

from typing import Any

import numpy as np

from skysail.packaging.base import Packaged, PackagingOptions
from skysail.packaging.saved_models import chosen_method, package_saved
from skysail_common.errors import InvalidInput
from skysail_common.loaders.lightgbm import MODEL_DATA, LightgbmLoader

_METHODS = ("predict", "predict_proba")


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a booster or estimator travels: as the text of its booster, with the classes.

    Raises:
        InvalidInput: it is not fitted, or has no method of the name given.
    """
    if type(source).__module__ not in ("lightgbm.basic", "lightgbm.sklearn"):
        return None
    # The answers of an estimator with an objective of the user are scores, by code that a text lacks.
    if not hasattr(source, "predict") or callable(getattr(source, "objective", None)):
        return None
    method = chosen_method(source, options.method, ["predict"], _METHODS)
    booster, chosen = source, {}
    if type(source).__module__ == "lightgbm.sklearn":
        try:
            booster = source.booster_
        except Exception as error:
            raise InvalidInput(
                f"cannot deploy the {type(source).__name__}: {error}; deploy a fitted model"
            ) from error
        chosen = _classes(source, method)
    modules = {"lightgbm", "numpy", "scipy"}
    return package_saved(
        source, booster.save_model, MODEL_DATA, LightgbmLoader, "lightgbm", chosen, modules
    )


def _classes(source: Any, method: str) -> dict[str, Any]:
    if not hasattr(source, "predict_proba"):
        return {}
    classes = np.asarray(source.classes_)
    return {"method": method, "classes": classes.tolist(), "dtype": classes.dtype.str}
