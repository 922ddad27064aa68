"""Calls with one row each, on the main thread or side by side on threads."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from skysail_model_server.calls.base import Answers
from skysail_model_server.calls.single_calls import FunctionCall, Outcome, SingleCalls
from skysail_model_server.user_function import UserFunction


class RowCalls(SingleCalls):
    """One call for each row, one after the other."""

    def _outcomes(self, calls: Sequence[FunctionCall], answers: Answers) -> Iterator[Outcome]:
        return map(self._outcome, calls, repeat(answers))

    def _outcome(self, call: FunctionCall, answers: Answers) -> Outcome:
        answers.call_began()
        try:
            return self._outputs(call, self._function.call(call.selected(), call.params))
        # SystemExit and CancelledError of user code are caught too; no signal raises here.
        except BaseException as error:
            return error


class ThreadCalls(RowCalls):
    """One call for each row, side by side on as many threads as the function allows."""

    def __init__(self, function: UserFunction) -> None:
        """Create the pool, which starts its threads as it needs them."""
        super().__init__(function)
        self._pool = ThreadPoolExecutor(function.style.max_concurrency, "call")

    def _outcomes(self, calls: Sequence[FunctionCall], answers: Answers) -> Iterator[Outcome]:
        return self._pool.map(self._outcome, calls, repeat(answers))

    def close(self) -> None:
        """End the threads of the pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)
