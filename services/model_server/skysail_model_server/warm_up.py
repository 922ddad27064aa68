"""Warm-up of a model with its examples, and measurement of its batch latencies.

    examples ──► 1 row ──► 8 rows ──► 64 rows ──► first example
    untimed      within the budget                only if the model was measured

Two sizes determine the line by which a frontend plans its first batches. The third size is for slow
models, which do not reach the largest size within the budget. One call per size is enough, because
samples of real batches soon outweigh it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from skysail_common.tensors import Array
from skysail_model_server.model import Model

log = logging.getLogger(__name__)

_SIZES = (1, 8, 64)


@dataclass(frozen=True)
class WarmUpLimits:
    """Limits of a warm-up, beyond the example."""

    budget_s: float = 0.5
    """Time for all measuring calls, in seconds; 0 to measure nothing."""
    max_rows: int = _SIZES[-1]
    """Largest number of rows of one call."""

    def sizes(self) -> list[int]:
        """Return the rows of the measuring calls, ascending."""
        largest = min(self.max_rows, _SIZES[-1])
        return [*(size for size in _SIZES if size < largest), largest]


DEFAULT_LIMITS = WarmUpLimits()


def warm_up(
    model: Model,
    examples: Sequence[Sequence[Array]],
    limits: WarmUpLimits = DEFAULT_LIMITS,
    on_call: Callable[[int], None] = lambda number: None,
) -> None:
    """Call a model with its examples, and store its batch latencies in it.

    A measuring call happens only if the previous calls predict that it ends within the budget. The
    first call may include setup of the model, so that its latency is not a measurement of speed; if
    it is long, nothing is measured.

    Args:
        model: The model.
        examples: Inputs [batch, …] in the order of the signature, for each example.
        limits: Limits of the measuring calls.
        on_call: Callback before each call, with its number from 1 on.

    Raises:
        Exception: the exception of the function for an example.
    """
    calls = _WarmUpCalls(model, on_call)
    example = examples[0]
    num_rows = len(example[0])
    last_rows, last_s = num_rows, calls.predict(example, [num_rows])
    for other in examples[1:]:
        calls.predict(other, [len(other[0])])
    num_examples = calls.number
    end = perf_counter() + limits.budget_s
    latencies: dict[int, float] = {}
    for rows in limits.sizes():
        if perf_counter() + last_s * max(1.0, rows / last_rows) > end:
            break
        try:
            last_rows, last_s = rows, calls.predict(example, _queries(model, rows))
        # Every exception is caught, as in `load_model`: a model may reject batches of this size.
        except BaseException as error:
            log.info("warm-up stops", extra={"rows": rows, "error": repr(error)})
            break
        latencies[rows] = last_s
    if calls.number > num_examples:
        # The last call shows whether the example still fits into the memory that the calls left.
        again_s = calls.predict(example, [num_rows])
        latencies[num_rows] = min(again_s, latencies.get(num_rows, again_s))
    model.latencies = sorted(latencies.items())
    model.longest_call_s = calls.longest_s


class _WarmUpCalls:
    """The calls of one warm-up."""

    def __init__(self, model: Model, on_call: Callable[[int], None]) -> None:
        self.number = 0
        """Number of calls."""
        self.longest_s = 0.0
        """Longest call, in seconds."""
        self._model = model
        self._on_call = on_call

    def predict(self, example: Sequence[Array], queries: Sequence[int]) -> float:
        """Call the model with rows of an example, repeated in order, and return the latency.

        Args:
            example: Inputs [batch, …] in the order of the signature.
            queries: Number of rows of each query.

        Raises:
            Exception: the exception of the function.
        """
        inputs = [_tiled(array, sum(queries)) for array in example]
        self.number += 1
        self._on_call(self.number)
        begin = perf_counter()
        self._model.predict_queries(inputs, queries)
        taken_s = perf_counter() - begin
        self.longest_s = max(self.longest_s, taken_s)
        return taken_s


def _queries(model: Model, rows: int) -> list[int]:
    """Return the rows of the queries of a measuring call."""
    # Coroutines of several queries run side by side, and most queries have one row.
    return [1] * rows if model.style.is_async else [rows]


def _tiled(array: Array, rows: int) -> Array:
    """Return a copy with the given number of rows, repeated in order."""
    tiled: Array = np.concatenate([array] * -(-rows // len(array)))[:rows]
    return tiled
