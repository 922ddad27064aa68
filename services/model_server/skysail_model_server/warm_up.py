"""Warms a model up with its example, and measures how long batches of it take."""

import logging
import os
from collections.abc import Sequence
from time import perf_counter

import numpy as np

from skysail_common.tensors import Array
from skysail_model_server.forks import end_fork
from skysail_model_server.model import Model

log = logging.getLogger(__name__)

_MAX_ROWS = 64
_TRIES = 3
_BUDGET_S = 0.5


def warm_up(model: Model, example: Sequence[Array]) -> list[tuple[int, float]]:
    """Return rows and seconds of batches that double from one row, each the fastest of a few.

    It ends after about half a second, or where a size fails: a first look, which what is really
    asked replaces.

    Args:
        model: Answers the example first.
        example: Inputs [batch, …] in the order of the signature.

    Raises:
        Exception: what the function raised for the example itself, at first or in the end.
    """
    pid = os.getpid()
    model.predict([array.copy() for array in example], len(example[0]))
    _end_if_fork(pid, None)
    latencies: list[tuple[int, float]] = []
    end = perf_counter() + _BUDGET_S
    rows = 1
    while rows <= _MAX_ROWS and perf_counter() < end:
        times_s = []
        try:
            for _ in range(_TRIES):
                inputs = [_tiled(array, rows) for array in example]
                begin = perf_counter()
                model.predict(inputs, rows)
                _end_if_fork(pid, None)
                times_s.append(perf_counter() - begin)
        # All of them, as in `load_model`: a model that takes no such batch is still one.
        except BaseException as error:
            _end_if_fork(pid, error)
            log.info("warm-up stops", extra={"rows": rows, "error": repr(error)})
            # What failed may have left no memory for smaller ones.
            model.predict([array.copy() for array in example], len(example[0]))
            _end_if_fork(pid, None)
            break
        latencies.append((rows, min(times_s)))
        rows *= 2
    return latencies


def _end_if_fork(pid: int, error: BaseException | None) -> None:
    """End this process if the function has forked it: each further call would fork again."""
    if os.getpid() != pid:
        end_fork(error)


def _tiled(array: Array, rows: int) -> Array:
    """Return a copy with so many rows, repeated in order."""
    return np.concatenate([array] * -(-rows // len(array)))[:rows]
