"""Columns of one datatype as one matrix, in which they travel between frontends and replicas.

A query of a wide data frame would otherwise cost as much as one input for each column.
"""

from collections.abc import Sequence

import numpy as np

from skysail_common.tensors import Array, Data, Signature


def packed_data(signature: Signature, data: Sequence[Data], rows: int) -> tuple[Data, ...]:
    """Return the data of the packed inputs.

    Args:
        signature: The signature.
        data: Data of each input of the signature.
        rows: Rows of each input.
    """
    return tuple(
        data[group[0]]
        if len(group) == 1
        else _matrix([data[index] for index in group], rows, spec.datatype.element_bytes)
        for spec, group in zip(signature.packed_inputs, signature.groups, strict=True)
    )


def _matrix(columns: Sequence[Data], rows: int, element_bytes: int) -> bytes:
    if rows == 1:
        return b"".join(columns)
    elements = [np.frombuffer(column, f"u{element_bytes}") for column in columns]
    return np.stack(elements, axis=1).tobytes()


def packed_arrays(signature: Signature, arrays: Sequence[Array]) -> list[Array]:
    """Return the packed inputs of arrays [rows], one for each input of the signature."""
    return [
        arrays[group[0]]
        if len(group) == 1
        else np.stack([arrays[index] for index in group], axis=1)
        for group in signature.groups
    ]


def unpacked_arrays(signature: Signature, packed: Sequence[Array]) -> dict[str, Array]:
    """Return the inputs of the signature by name; they may be views of the packed inputs."""
    arrays: dict[str, Array] = {}
    for matrix, group in zip(packed, signature.groups, strict=True):
        columns = [matrix] if len(group) == 1 else matrix.T
        for index, column in zip(group, columns, strict=True):
            arrays[signature.inputs[index].name] = column
    return arrays
