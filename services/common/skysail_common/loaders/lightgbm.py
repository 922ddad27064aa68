"""Models of lightgbm, in the library's own format."""

from typing import Any

import numpy as np
from typing_extensions import override

from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.tables import as_table
from skysail_common.model_functions import Function

MODEL_DATA = "model.txt"


class LightgbmLoader(Loader):
    """The loader of boosters, and of what a classifier adds to one.

    The library saves no classifier, only its booster.

    Options:
        method: `predict` or `predict_proba`.
        classes: Labels in the order of the probabilities; absent if the model is no classifier.
        dtype: Type of the labels, in the notation of numpy.
    """

    @override
    def load(self, context: ModelContext) -> Function:
        import lightgbm

        booster = lightgbm.Booster(model_file=context.data(MODEL_DATA))
        num_threads = context.num_threads
        if "classes" not in self.options:
            return lambda X: booster.predict(as_table(X), num_threads=num_threads)
        classes = np.asarray(self.options["classes"], self.options["dtype"])
        is_label = self.options["method"] == "predict"

        def predict(X: Any) -> Any:
            scores = booster.predict(as_table(X), num_threads=num_threads)
            if scores.ndim == 1:
                # The booster of two classes has the probability of the second alone.
                scores = np.stack([1 - scores, scores], axis=1)
            return classes[np.argmax(scores, axis=1)] if is_label else scores

        return predict
