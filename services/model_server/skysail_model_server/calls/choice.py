"""The way in which a function is called, chosen by its style."""

from skysail_model_server.calls.base import Calls
from skysail_model_server.calls.batch_calls import BatchCalls
from skysail_model_server.calls.coroutine_calls import CoroutineCalls
from skysail_model_server.calls.row_calls import RowCalls, ThreadCalls
from skysail_model_server.user_function import UserFunction


def calls_of(function: UserFunction) -> Calls:
    """Return the way to call a function."""
    style = function.style
    if style.is_async:
        return CoroutineCalls(function)
    if style.batch:
        return BatchCalls(function)
    return ThreadCalls(function) if style.max_concurrency > 1 else RowCalls(function)
