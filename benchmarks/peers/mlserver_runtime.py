"""The runtime for MLServer, which loads this file in the environment of the peer."""

# mypy: disable-error-code="import-untyped, import-not-found, misc"

from pathlib import Path

import joblib
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Digits(MLModel):
    """A model that predicts a batch by one call; without a joblib file it returns the input."""

    async def load(self) -> bool:
        """Load the model."""
        path = Path(self.settings.parameters.uri, "model.joblib")
        self._predict = joblib.load(path).predict if path.exists() else None
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Predict the batch that MLServer has formed."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        y = x if self._predict is None else self._predict(x)
        output = ResponseOutput(
            name="output",
            datatype="FP32" if self._predict is None else "INT64",
            shape=list(y.shape),
            data=y.ravel().tolist(),
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
