"""Results of functions that take one input at a time (`batch=False`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skysail_common.errors import ModelFailed
from skysail_common.model_functions import Calling, named_outputs
from skysail_common.tensors import Array


def row_outputs(result: Any, calling: Calling) -> dict[str, Array]:
    """Return the outputs of one input, with a batch axis of size 1.

    Args:
        result: Result of the function, whose outputs have no batch axis.
        calling: Form of the function's arguments.

    Raises:
        ModelFailed: an output is not an array of numbers or texts.
    """
    if result is None:
        raise ModelFailed("the function returned None; it must return an output for its input")
    if calling == "list":
        return named_outputs([result], calling)
    outputs = named_outputs(result, calling)
    # The copy outlives the next call, which may reuse the memory of its result.
    return {name: np.array(array)[np.newaxis] for name, array in outputs.items()}


def joined_rows(rows: Sequence[Sequence[Array]]) -> list[Array]:
    """Return the outputs of a query from those of its rows, all in the order of the signature.

    Raises:
        ModelFailed: rows have outputs of different sizes.
    """
    if len(rows) == 1:
        return list(rows[0])
    return [_joined(parts) for parts in zip(*rows, strict=True)]


def joined_outputs(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the outputs of several rows by name.

    Raises:
        ModelFailed: rows have outputs of different names or sizes.
    """
    names = list(rows[0])
    for row in rows:
        if row.keys() != rows[0].keys():
            raise ModelFailed(
                f"the function returned {', '.join(names)} for one input and {', '.join(row)} for "
                "another; its outputs must have the same names"
            )
    return {name: _joined([row[name] for row in rows]) for name in names}


def _joined(parts: Sequence[Array]) -> Array:
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise ModelFailed(
            "the function returned outputs of different sizes for the rows of one query: "
            f"{' and '.join(str(list(shape)) for shape in sorted(shapes))}; send each row as a "
            "query"
        )
    return np.concatenate(parts)
