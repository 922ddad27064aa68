"""The model for the Python backend of Triton, which loads this file in its environment."""

# mypy: disable-error-code="import-untyped, import-not-found"

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """A model that predicts a batch by one call; without a joblib file it returns the input."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        path = Path(args["model_repository"], args["model_version"], "model.joblib")
        self._predict = joblib.load(path).predict if path.exists() else None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Predict the requests that Triton has put into one batch."""
        inputs = [triton.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        outputs = inputs
        if self._predict is not None:
            labels = self._predict(np.concatenate(inputs))
            outputs = np.split(labels, np.cumsum([len(each) for each in inputs[:-1]]))
        return [
            triton.InferenceResponse(output_tensors=[triton.Tensor("output", each)])
            for each in outputs
        ]
