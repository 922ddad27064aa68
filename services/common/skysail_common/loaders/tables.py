"""Tables, as the inputs of models that were fitted on one."""

from collections.abc import Mapping
from typing import Any


def as_table(inputs: Any) -> Any:
    """Return a data frame of inputs by name, and any other input as it is."""
    if not isinstance(inputs, Mapping):
        return inputs
    import pandas

    return pandas.DataFrame(dict(inputs))


class EstimatorFunction:
    """The function of an estimator with the interface of scikit-learn."""

    def __init__(self, estimator: Any, method: str) -> None:
        self.estimator = estimator
        self.method = method

    def __call__(self, X: Any) -> Any:
        """Return what the estimator answers for the rows of a table."""
        answer = getattr(self.estimator, self.method)(as_table(X))
        if hasattr(answer, "toarray"):
            # Encoders answer with sparse matrices.
            return answer.toarray()
        # An estimator of several outputs has probabilities for each.
        return tuple(answer) if isinstance(answer, list) else answer
