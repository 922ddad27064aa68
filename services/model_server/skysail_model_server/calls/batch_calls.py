"""Calls that answer many queries at once: the joined rows of a batch."""

from skysail_model_server.calls.base import Answers, Calls, QueryInputs
from skysail_model_server.user_function import UserFunction


class BatchCalls(Calls):
    """One call for all queries of a batch that fit together.

    A call that fails is repeated with each half, until each failing query is alone, so that the other
    queries get answers.
    """

    def __init__(self, function: UserFunction) -> None:
        self._function = function

    def answer(self, inputs: QueryInputs, answers: Answers) -> None:
        """Answer the queries (see `Calls`)."""
        for first, last in inputs.uniform_ranges():
            self._answer_range(inputs, first, last, answers)

    def _answer_range(self, inputs: QueryInputs, first: int, last: int, answers: Answers) -> None:
        function = self._function
        rows = inputs.rows[first:last]
        answers.call_began()
        try:
            result = function.call(inputs.select(first, last), inputs.params(first))
            # The outputs are encoded before the next call, which may reuse their memory.
            answers.add(rows, function.outputs(result, sum(rows)))
            return
        # SystemExit and CancelledError of user code are caught too; no signal raises here.
        except BaseException as error:
            if last - first == 1:
                answers.fail(first, error)
                return
        # The halves run outside the handler, so that their errors do not include this one as context.
        middle = (first + last) // 2
        self._answer_range(inputs, first, middle, answers)
        self._answer_range(inputs, middle, last, answers)
