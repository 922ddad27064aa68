"""The user's function on this machine, called as replicas call it."""

import inspect
from collections.abc import Collection, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from skysail_common.call_style import DEFAULT_CONCURRENCY, MAX_CONCURRENCY, CallStyle
from skysail_common.errors import InvalidInput
from skysail_common.model_functions import Calling, Function, call_function, named_outputs
from skysail_common.process.coroutine_thread import finished
from skysail_common.row_outputs import joined_outputs, row_outputs
from skysail_common.tensors import Array

_PARAMS = "params"
"""Keyword-only argument by which a function asks for the parameters of queries."""


class LocalFunction:
    """A function with its style of calls."""

    def __init__(self, function: Function, style: CallStyle) -> None:
        self.function = function
        self.style = style

    def outputs(self, inputs: Mapping[str, Any], num_rows: int) -> dict[str, Array]:
        """Return the outputs [batch, …] for inputs [batch, …] by name.

        Args:
            inputs: Arrays [batch, …] by name; one list if the function takes a list.
            num_rows: Rows of the inputs.

        Raises:
            ModelFailed: the result is not made of arrays of numbers or texts.
            Exception: the exception of the function.
        """
        calling = self.style.calling
        if self.style.batch:
            return named_outputs(self.call(inputs), calling)
        rows = ({name: values[row] for name, values in inputs.items()} for row in range(num_rows))
        return joined_outputs([row_outputs(self.call(row), calling) for row in rows])

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """Return the result of one call, without parameters."""
        params: dict[str, Any] | None = {} if self.style.takes_params else None
        result = call_function(self.function, self.style.calling, inputs, params)
        return finished(result) if self.style.is_async else result


def style_of(
    function: Function,
    calling: Calling,
    inputs: Collection[str] = (),
    *,
    batch: bool = True,
    max_concurrency: int | None = None,
) -> CallStyle:
    """Return how replicas call a function.

    Args:
        function: The function.
        calling: Form of its inputs.
        inputs: Names of the inputs that it takes by keyword.
        batch: False if it takes one input at a time.
        max_concurrency: Most calls side by side; the default if None.

    Raises:
        InvalidInput: the number is out of range, or calls of the function cannot run side by side.
    """
    is_async = is_coroutine_function(function)
    if max_concurrency is None:
        max_concurrency = DEFAULT_CONCURRENCY if is_async else 1
    if not 1 <= max_concurrency <= MAX_CONCURRENCY:
        raise InvalidInput(
            f"max_concurrency must be from 1 to {MAX_CONCURRENCY}, got {max_concurrency}"
        )
    if batch and not is_async and max_concurrency > 1:
        raise InvalidInput(
            f"cannot use max_concurrency={max_concurrency}: the function is called with one batch "
            "at a time; deploy an async def function, or one with batch=False"
        )
    takes = takes_params(function) and _PARAMS not in inputs
    return CallStyle(calling, batch, is_async, max_concurrency, takes)


def called_code(function: Any) -> Any:
    """Return the function or method that a call of an object runs."""
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, (FunctionType, MethodType)):
        return function
    return inspect.getattr_static(type(function), "__call__", function)


def is_coroutine_function(function: Any) -> bool:
    """Return whether a call returns a coroutine: an `async def`, or an object whose call is one."""
    return inspect.iscoroutinefunction(called_code(function))


def takes_params(function: Any) -> bool:
    """Return whether a function has a keyword-only argument `params`."""
    try:
        parameter = inspect.signature(function).parameters.get(_PARAMS)
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY
