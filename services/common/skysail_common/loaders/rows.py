"""Calls of models whose batch axis has a fixed or a largest size."""

from collections.abc import Callable, Mapping

import numpy as np

from skysail_common.errors import InvalidInput
from skysail_common.tensors import Array

Answer = Callable[[Mapping[str, Array]], dict[str, Array]]


def rows_at_once(name: str, size: int | None, advice: str) -> int | None:
    """Return how many rows a model takes at once, by the size of the batch axis of an input.

    Args:
        name: Name of the input.
        size: Size of its first axis; None if it varies.
        advice: How to make the axis variable.

    Returns:
        None for any number.

    Raises:
        InvalidInput: the size is fixed, and is not 1.
    """
    if size not in (None, 1):
        raise InvalidInput(
            f"cannot deploy the model: input {name!r} has a batch axis of the fixed size {size}, and "
            f"queries have batches of any size; {advice}"
        )
    return size


def answer_in_parts(
    answer: Answer, inputs: Mapping[str, Array], rows: int | None
) -> dict[str, Array]:
    """Return the outputs of a model that takes no more than so many rows at once.

    Args:
        answer: The model.
        inputs: Inputs [batch, …] by name.
        rows: Most rows of one call; None for no limit.
    """
    size = len(next(iter(inputs.values())))
    if rows is None or size <= rows:
        return answer(inputs)
    parts = [
        answer({name: array[first : first + rows] for name, array in inputs.items()})
        for first in range(0, size, rows)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
