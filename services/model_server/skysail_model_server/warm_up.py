"""Warms a model up with its example, and measures how long batches of it take.

    example ──► 1 row ──► 8 rows ──► 64 rows ──► example
    untimed     within the budget                only if the model was measured

Two sizes give the line by which a frontend plans its first batches; a third is there because a slow
model does not reach the largest within the budget. One call each is enough: the samples of real
batches outweigh them soon.
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
    """How much a warm-up may ask of a model, beyond its example."""

    budget_s: float = 0.5
    """Time for all calls that measure, seconds; 0 to measure nothing."""
    max_rows: int = _SIZES[-1]
    """Most rows of one call."""

    def sizes(self) -> list[int]:
        """Return the rows of the calls that measure, ascending."""
        largest = min(self.max_rows, _SIZES[-1])
        return [*(size for size in _SIZES if size < largest), largest]


DEFAULT_LIMITS = WarmUpLimits()


def warm_up(
    model: Model,
    example: Sequence[Array],
    limits: WarmUpLimits = DEFAULT_LIMITS,
    on_call: Callable[[int], None] = lambda number: None,
) -> None:
    """Call a model with its example, and leave in it how long its batches take.

    A call that measures is made only if the time that those before took lets it end within the
    budget. The first call may make what the model needs, so that a long one tells nothing of its
    speed: nothing is measured then.

    Args:
        model: Answers the example first.
        example: Inputs [batch, …] in the order of the signature.
        limits: What else to ask.
        on_call: Called before each call with its number, from 1 on.

    Raises:
        Exception: what the function raised for the example itself, at first or in the end.
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
        # All of them, as in `load_model`: a model that takes no such batch is still one.
        except BaseException as error:
            calls.end_if_fork(error)
            log.info("warm-up stops", extra={"rows": rows, "error": repr(error)})
            break
        latencies[rows] = last_s
    if calls.number > 1:
        # What the others have kept may have left it no memory.
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
        """How many calls there were."""
        self.longest_s = 0.0
        """How long the longest took."""
        self._model = model
        self._example = example
        self._on_call = on_call
        self._pid = os.getpid()

    def predict(self, rows: int) -> float:
        """Have the first `rows` rows of the example, repeated in order, answered; return the time.

        Raises:
            Exception: what the function raised.
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
        """End this process if the function has forked it: each further call would fork again."""
        if os.getpid() != self._pid:
            end_fork(error)


def _tiled(array: Array, rows: int) -> Array:
    """Return a copy with so many rows, repeated in order."""
    tiled: Array = np.concatenate([array] * -(-rows // len(array)))[:rows]
    return tiled
