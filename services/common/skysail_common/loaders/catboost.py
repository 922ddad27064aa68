"""Models of catboost, in the library's own format."""

from typing import Any

from typing_extensions import override

from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.tables import as_table
from skysail_common.model_functions import Function

MODEL_DATA = "model.cbm"


class CatboostLoader(Loader):
    """The loader of models of catboost.

    Options:
        class: Name of the class in the library.
        method: Method that answers.
    """

    @override
    def load(self, context: ModelContext) -> Function:
        import catboost

        model = getattr(catboost, self.options["class"])()
        model.load_model(str(context.data(MODEL_DATA)))
        answer = getattr(model, self.options["method"])

        def predict(X: Any) -> Any:
            return answer(as_table(X), thread_count=context.num_threads)

        return predict
