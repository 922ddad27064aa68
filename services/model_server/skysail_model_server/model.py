"""One loaded model version, which answers batches as its signature says."""

from collections.abc import Sequence
from types import FrameType
from typing import Any

from skysail_common.call_style import CallStyle
from skysail_common.frames.columns import FrameBuilder
from skysail_common.loaders.base import Loader
from skysail_common.model_functions import Function
from skysail_common.replica_description import ReplicaDescription
from skysail_common.tensors import Array, Signature
from skysail_model_server.calls.base import Answers, QueryInputs
from skysail_model_server.calls.choice import calls_of
from skysail_model_server.user_function import UserFunction


class Model:
    """The user's function with its signature, and the way to call it."""

    def __init__(
        self,
        function: Function,
        style: CallStyle,
        signature: Signature,
        artifact_sha256: str = "",
        loader: Loader | None = None,
        frames: FrameBuilder | None = None,
    ) -> None:
        """Prepare the calls, which may start threads.

        Args:
            function: The user's function.
            style: How it is called.
            signature: Its inputs and outputs.
            artifact_sha256: SHA-256 of the artifact, which identifies the content.
            loader: Loader that made the function; None for a function of a test.
            frames: Builder of the data frames that the function takes; None if it takes no frames.
        """
        self._loader = loader
        self.artifact_sha256 = artifact_sha256
        self.signature = signature
        self.style = style
        self.latencies: list[tuple[int, float]] = []
        """Rows and seconds of the batches of the warm-up, by rows."""
        self.longest_call_s = 0.0
        """Longest call of the warm-up, in seconds."""
        self.description = ReplicaDescription()
        """What management learns about the model before the replica gets queries."""
        self.example: Sequence[Array] = ()
        """Packed inputs [batch, …] that the function has answered once; empty without an example."""
        self.function = UserFunction(function, style, signature, frames)
        self._calls = calls_of(self.function)

    @property
    def hooked(self) -> Any:
        """Object that may have the hooks `check_health` and `on_unhealthy`; may be None."""
        return None if self._loader is None else self._loader.hooked

    @property
    def takes_list(self) -> bool:
        """True if the function takes a list with one element per row, whose sizes may differ."""
        return self.style.calling == "list"

    def answer(self, inputs: QueryInputs, answers: Answers) -> None:
        """Answer the queries of a batch (see `Calls`)."""
        self._calls.answer(inputs, answers)

    def predict(self, inputs: Sequence[Array], num_rows: int) -> list[Array]:
        """Return the outputs [batch, …] for one query, in the order of the signature.

        Args:
            inputs: Packed inputs [batch, …] in the order of the signature.
            num_rows: Rows of the inputs.

        Raises:
            ModelFailed: the result does not fit the signature.
            Exception: the exception of the function.
        """
        (outputs,) = self.predict_queries(inputs, [num_rows])
        return list(outputs)

    def predict_queries(
        self, inputs: Sequence[Array], rows: Sequence[int]
    ) -> list[Sequence[Array]]:
        """Return the joined outputs of the queries that each call answered; see `predict`.

        Args:
            inputs: Inputs [batch, …] of all queries, which are copied.
            rows: Rows of each query.
        """
        answers = _Outputs()
        self._calls.answer(_Queries(inputs, rows), answers)
        return answers.outputs

    def waiting_frames(self) -> list[FrameType]:
        """Return the frames of a call that no thread runs because it waits, innermost first."""
        return self._calls.waiting_frames()

    def close(self) -> None:
        """Release what the model holds, and end the threads of its calls."""
        try:
            if self._loader is not None:
                self._loader.close()
        finally:
            self._calls.close()


class _Queries:
    """Inputs of queries without parameters, from arrays."""

    def __init__(self, arrays: Sequence[Array], rows: Sequence[int]) -> None:
        self.rows = rows
        self._arrays = arrays
        self._starts = [sum(rows[:index]) for index in range(len(rows) + 1)]

    def uniform_ranges(self) -> Sequence[tuple[int, int]]:
        """Return one range of all queries."""
        return [(0, len(self.rows))]

    def select(self, first: int, last: int) -> list[object]:
        """Return copies of the inputs of the queries from `first` to before `last`."""
        begin, end = self._starts[first], self._starts[last]
        return [array[begin:end].copy() for array in self._arrays]

    def select_row(self, query: int, row: int) -> list[object]:
        """Return copies of the inputs of one row of a query, without the batch axis."""
        # The slice is copied before the index, because an element of texts has no copy method.
        index = self._starts[query] + row
        return [array[index : index + 1].copy()[0] for array in self._arrays]

    def params(self, query: int) -> str:
        """Return that a query has no parameters."""
        return ""


class _Outputs:
    """A receiver that keeps outputs, and raises errors."""

    def __init__(self) -> None:
        self.outputs: list[Sequence[Array]] = []

    def call_began(self) -> None:
        pass

    def add(self, rows: Sequence[int], outputs: Sequence[Array]) -> None:
        self.outputs.append(outputs)

    def fail(self, query: int, error: BaseException) -> None:
        raise error
