"""Calls that answer one query, or one row of it; a failure concerns only that query."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from skysail_common.row_outputs import joined_rows
from skysail_common.tensors import Array
from skysail_model_server.calls.base import Answers, Calls, QueryInputs
from skysail_model_server.user_function import UserFunction


class FunctionCall(NamedTuple):
    """One call of the function."""

    inputs: QueryInputs
    query: int
    row: int | None
    """Index of the row in the query; None for all rows of the query."""

    def selected(self) -> list[object]:
        """Return the inputs of the call."""
        if self.row is None:
            return self.inputs.select(self.query, self.query + 1)
        return self.inputs.select_row(self.query, self.row)

    @property
    def params(self) -> str:
        """Parameters of the query."""
        return self.inputs.params(self.query)


Outcome = Sequence[Array] | BaseException
"""Outputs [batch, …] of a call in the order of the signature, or its error."""


class SingleCalls(Calls):
    """One call for each query, or with `batch=False` for each row."""

    def __init__(self, function: UserFunction) -> None:
        self._function = function

    def answer(self, inputs: QueryInputs, answers: Answers) -> None:
        """Answer the queries (see `Calls`)."""
        queries = [query for ends in inputs.uniform_ranges() for query in range(*ends)]
        calls = {query: self._calls_of(inputs, query) for query in queries}
        outcomes = self._outcomes([each for query in queries for each in calls[query]], answers)
        for query in queries:
            parts = [next(outcomes) for _ in calls[query]]
            errors = [part for part in parts if isinstance(part, BaseException)]
            if errors:
                answers.fail(query, errors[0])
                continue
            try:
                outputs = [part for part in parts if not isinstance(part, BaseException)]
                answers.add([inputs.rows[query]], joined_rows(outputs))
            except BaseException as error:
                answers.fail(query, error)

    def _calls_of(self, inputs: QueryInputs, query: int) -> list[FunctionCall]:
        if self._function.style.batch:
            return [FunctionCall(inputs, query, None)]
        return [FunctionCall(inputs, query, row) for row in range(inputs.rows[query])]

    @abstractmethod
    def _outcomes(self, calls: Sequence[FunctionCall], answers: Answers) -> Iterator[Outcome]:
        """Make the calls and yield their outcomes in the same order."""

    def _outputs(self, call: FunctionCall, result: object) -> Sequence[Array]:
        """Return the outputs in the result of a call.

        Raises:
            ModelFailed: the result does not fit the signature.
        """
        if call.row is None:
            return self._function.outputs(result, call.inputs.rows[call.query])
        return self._function.row_outputs(result)
