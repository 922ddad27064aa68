"""Warm-up of a model with its example, and measurement of its batch latencies.

    example ──► 1 row ──► 8 rows ──► 64 rows ──► example
    untimed     within the budget                only if the model was measured

Two sizes determine the line by which a frontend plans its first batches. The third size is for slow
models, which do not reach the largest size within the budget. One call per size is enough, because
samples of real batches soon outweigh it.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from skysail_common.tensors import Array
from skysail_model_server.forks import end_fork
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
    example: Sequence[Array],
    limits: WarmUpLimits = DEFAULT_LIMITS,
    on_call: Callable[[int], None] = lambda number: None,
) -> None:
    """Call a model with its example, and store its batch latencies in it.

    A measuring call happens only if the previous calls predict that it ends within the budget. The
    first call may include setup of the model, so that its latency is not a measurement of speed; if
    it is long, nothing is measured.

    Args:
        model: The model.
        example: Inputs [batch, …] in the order of the signature.
        limits: Limits of the measuring calls.
        on_call: Callback before each call, with its number from 1 on.

    Raises:
        Exception: the exception of the function for the example, in the first or last call.
    """
    calls = _WarmUpCalls(model, example, on_call)
    num_rows = len(example[0])
    last_rows, last_s = num_rows, calls.predict(num_rows)
    end = perf_counter() + limits.budget_s
    latencies: dict[int, float] = {}
    for rows in limits.sizes():
        if perf_counter() + last_s * max(1.0, rows / last_rows) > end:
            break
        try:
            last_rows, last_s = rows, calls.predict(rows)
        # Every exception is caught, as in `load_model`: a model may reject batches of this size.
        except BaseException as error:
            calls.end_if_fork(error)
            log.info("warm-up stops", extra={"rows": rows, "error": repr(error)})
            break
        latencies[rows] = last_s
    if calls.number > 1:
        # The last call shows whether the example still fits into the memory that the calls left.
        again_s = calls.predict(num_rows)
        latencies[num_rows] = min(again_s, latencies.get(num_rows, again_s))
    model.latencies = sorted(latencies.items())
    model.longest_call_s = calls.longest_s


class _WarmUpCalls:
    """The calls of one warm-up."""

    def __init__(
        self, model: Model, example: Sequence[Array], on_call: Callable[[int], None]
    ) -> None:
        self.number = 0
        """Number of calls."""
        self.longest_s = 0.0
        """Longest call, in seconds."""
        self._model = model
        self._example = example
        self._on_call = on_call
        self._pid = os.getpid()

    def predict(self, rows: int) -> float:
        """Call the model with rows of the example, repeated in order, and return the latency.

        Args:
            rows: Number of rows.

        Raises:
            Exception: the exception of the function.
        """
        inputs = [_tiled(array, rows) for array in self._example]
        self.number += 1
        self._on_call(self.number)
        begin = perf_counter()
        self._model.predict(inputs, rows)
        self.end_if_fork(None)
        taken_s = perf_counter() - begin
        self.longest_s = max(self.longest_s, taken_s)
        return taken_s

    def end_if_fork(self, error: BaseException | None) -> None:
        """End this process if it is a fork by the function, because each call would fork again."""
        if os.getpid() != self._pid:
            end_fork(error)


def _tiled(array: Array, rows: int) -> Array:
    """Return a copy with the given number of rows, repeated in order."""
    tiled: Array = np.concatenate([array] * -(-rows // len(array)))[:rows]
    return tiled
