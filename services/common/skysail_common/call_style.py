"""How the function of a model is called."""

from dataclasses import dataclass

from skysail_common.model_functions import Calling

MAX_CONCURRENCY = 1024
"""Largest number of calls side by side."""

DEFAULT_CONCURRENCY = 64
"""Number of coroutines side by side if the deploy gives none."""


@dataclass(frozen=True)
class CallStyle:
    """What one call of a function gets, and how many calls run side by side."""

    calling: Calling = "array"
    """Form of the inputs."""
    batch: bool = True
    """True if a call gets inputs [batch, …]; False if it gets one row without its batch axis."""
    is_async: bool = False
    """True if a call returns a coroutine; each query then has a call of its own."""
    max_concurrency: int = 1
    """Most calls side by side; above 1 only for coroutines and for `batch=False`."""
    takes_params: bool = False
    """True if a call gets the parameters of its queries as the keyword argument `params`."""
