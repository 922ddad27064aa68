"""Examples for a model whose format states its signature."""

from collections.abc import Mapping, Sequence
from typing import Any

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.local_function import LocalFunction
from skysail_common.model_functions import as_array, checked_outputs
from skysail_common.tensor_conversions import cast
from skysail_common.tensors import Signature, Tensor, TensorSpec, from_numpy, to_numpy


def check_examples(
    model: LocalFunction | None, signature: Signature, batches: Sequence[Any]
) -> tuple[tuple[Tensor, ...], ...]:
    """Return the inputs of each example, once the model has answered all of them.

    Args:
        model: The model; None if it cannot run here.
        signature: What the format states.
        batches: Examples: an array [batch, …] for a model with one input, or a dictionary of arrays
            by name. Numbers may have another type of the same kind.

    Raises:
        InvalidInput: an example does not fit the inputs.
        ModelFailed: the model fails on an example, or answers something else than it states.
    """
    examples = tuple(_fitted(batch, signature.inputs) for batch in batches)
    if model is not None:
        for tensors in examples:
            _check_answer(model, signature, tensors)
    return examples


def _check_answer(model: LocalFunction, signature: Signature, tensors: Sequence[Tensor]) -> None:
    num_rows = tensors[0].shape[0]
    try:
        outputs = model.outputs({each.name: to_numpy(each).copy() for each in tensors}, num_rows)
    except ModelFailed:
        raise
    except Exception as error:
        what = ": ".join(filter(None, [type(error).__name__, str(error)]))
        raise ModelFailed(f"the model failed on the example: {what}") from error
    checked_outputs(outputs, signature.outputs, num_rows)


def _fitted(example: Any, specs: Sequence[TensorSpec]) -> tuple[Tensor, ...]:
    names = [spec.name for spec in specs]
    if isinstance(example, Mapping):
        given = {str(name): value for name, value in example.items()}
    elif len(specs) == 1:
        given = {names[0]: example}
    else:
        raise InvalidInput(
            f"cannot use the example: the model has the inputs {_list(names)}; give a dictionary of "
            "arrays by name"
        )
    if given.keys() != set(names):
        raise InvalidInput(
            f"cannot use the example: it has {_list(given)}, and the model takes {_list(names)}; use "
            "the names of the model"
        )
    tensors = tuple(_tensor(spec, given[spec.name]) for spec in specs)
    num_rows = {tensor.shape[0] for tensor in tensors}
    if len(num_rows) != 1:
        raise InvalidInput(
            f"cannot use the example: its inputs have different numbers of rows: {sorted(num_rows)}"
        )
    return tensors


def _tensor(spec: TensorSpec, value: Any) -> Tensor:
    try:
        array = as_array(spec.name, value)
    except ModelFailed as error:
        raise InvalidInput(f"cannot use the example: {error.message}") from error
    fits = array.ndim == len(spec.shape) and all(
        want in (-1, size) for want, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        raise InvalidInput(
            f"cannot use the example of {spec.name!r}: it has the shape {list(array.shape)}, and the "
            f"model takes {list(spec.shape)}, the batch axis first"
        )
    tensor = from_numpy(spec.name, array, spec.content if array.dtype.kind == "O" else None)
    try:
        return cast(tensor, spec.datatype)
    except InvalidInput as error:
        raise InvalidInput(f"cannot use the example: {error.message}") from error


def _list(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"
