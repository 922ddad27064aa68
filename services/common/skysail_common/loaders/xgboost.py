"""Models of xgboost, in the library's own format."""

import json
from typing import Any

from typing_extensions import override

from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.tables import as_table
from skysail_common.model_functions import Function

MODEL_DATA = "model.ubj"


class XgboostLoader(Loader):
    """The loader of boosters and estimators.

    Options:
        class: Name of the class in the library.
        method: Method that answers; absent for a booster.
        missing: Number that stands for a missing value; absent for NaN.
    """

    @override
    def load(self, context: ModelContext) -> Function:
        import xgboost

        model = getattr(xgboost, self.options["class"])()
        model.load_model(context.data(MODEL_DATA))
        if isinstance(model, xgboost.Booster):
            model.set_param({"nthread": context.num_threads, "device": context.device})
            answer = _answer_of_booster(model)
        else:
            missing = {name: self.options[name] for name in ["missing"] if name in self.options}
            model.set_params(n_jobs=context.num_threads, device=context.device, **missing)
            answer = getattr(model, self.options["method"])

        def predict(X: Any) -> Any:
            return answer(as_table(X))

        return predict


def _answer_of_booster(booster: Any) -> Function:
    """Return the function that answers as `Booster.predict`, the fastest that the booster has."""
    import xgboost

    learner = json.loads(booster.save_config())["learner"]
    if learner["gradient_booster"]["name"] == "gblinear":
        return lambda rows: booster.predict(xgboost.DMatrix(rows))
    in_place: Function = booster.inplace_predict
    return in_place
