"""The packager of estimators with the interface of scikit-learn."""

from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.saved_models import chosen_method
from skysail_common.loaders.tables import EstimatorFunction

PRIORITY = 200
"""Rank after the libraries whose estimators have bases of scikit-learn."""


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how an estimator or pipeline travels: as a pickle.

    Raises:
        InvalidInput: it has no method of the name given.
    """
    if "sklearn" not in type_modules(source) or not hasattr(source, "get_params"):
        return None
    function = EstimatorFunction(
        source, chosen_method(source, options.method, ["predict", "transform"])
    )
    return Packaged(open=lambda context: function, pickled=function, pins_packages=True)
