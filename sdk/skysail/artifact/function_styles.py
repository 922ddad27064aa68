"""The style of calls that the user's function asks for."""

import inspect
from collections.abc import Collection
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from skysail_common.call_style import DEFAULT_CONCURRENCY, MAX_CONCURRENCY, CallStyle
from skysail_common.errors import InvalidInput
from skysail_common.model_functions import Calling, Function

_PARAMS = "params"
"""Keyword-only argument by which a function asks for the parameters of queries."""


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
