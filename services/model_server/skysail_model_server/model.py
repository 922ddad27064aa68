"""One loaded model version, which maps arrays to arrays as its signature says."""

from collections.abc import Sequence
from typing import cast

from skysail_common.loaders.base import Loader
from skysail_common.model_functions import (
    Calling,
    Function,
    call_function,
    checked_outputs,
    named_outputs,
)
from skysail_common.tensors import Array, Signature


class Model:
    """The user's function with its signature."""

    def __init__(
        self,
        function: Function,
        calling: str,
        signature: Signature,
        artifact_sha256: str = "",
        loader: Loader | None = None,
    ) -> None:
        self.artifact_sha256 = artifact_sha256
        """SHA-256 of the artifact, which identifies the content."""
        self._loader = loader
        self._function = function
        self._calling = cast(Calling, calling)
        self.signature = signature
        self.latencies: list[tuple[int, float]] = []
        """Rows and seconds of the batches of the warm-up, by rows."""
        self.longest_call_s = 0.0
        """Longest call of the warm-up, in seconds."""
        self.example: Sequence[Array] = ()
        """Inputs [batch, …] that the function has answered once; empty without an example."""

    @property
    def takes_list(self) -> bool:
        """True if the function takes a list with one element per row, whose sizes may differ."""
        return self._calling == "list"

    def close(self) -> None:
        """Release what the model holds, at the end of the process."""
        if self._loader is not None:
            self._loader.close()

    def predict_example(self) -> None:
        """Call the function with a copy of the example."""
        self.predict([array.copy() for array in self.example], len(self.example[0]))

    def predict(self, inputs: Sequence[object], num_rows: int) -> list[Array]:
        """Return the outputs [batch, …] in the order of the signature.

        Args:
            inputs: Arrays [batch, …] in the order of the signature, or one list with one element
                per row if the function takes a list.
            num_rows: Rows of the inputs.

        Raises:
            ModelFailed: the result of the function does not fit the signature.
            Exception: the exception of the function.
        """
        if self.takes_list:
            inputs = [list(cast(Sequence[object], inputs[0]))]
        named = dict(zip((spec.name for spec in self.signature.inputs), inputs, strict=True))
        result = call_function(self._function, self._calling, named)
        outputs = named_outputs(result, self._calling)
        return checked_outputs(outputs, self.signature.outputs, num_rows)
