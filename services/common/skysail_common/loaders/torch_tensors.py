"""Conversion between arrays and tensors of torch, for the three formats of torch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from skysail_common.errors import FailedPrecondition, ModelFailed
from skysail_common.loaders.base import ModelContext
from skysail_common.tensors import DataType


def prepare(context: ModelContext) -> None:
    """Check that torch has the device, and bound its threads in a replica.

    Raises:
        FailedPrecondition: torch sees no such device.
    """
    import torch

    device = context.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        build = torch.version.cuda or "none, so that it is a build for CPUs"
        raise FailedPrecondition(
            f"cannot load the model on {device}: torch {torch.__version__} sees no GPU (its CUDA "
            f"version is {build}); deploy with gpus=0, or install a torch for GPUs by "
            "pkgs_to_install"
        )
    if context.owns_process:
        torch.set_num_threads(max(1, context.num_threads))


def to_tensors(value: Any, device: Any) -> Any:
    """Return the tensor of an array, or the tensors of a dictionary of arrays.

    Raises:
        ModelFailed: the array holds texts.
    """
    import torch

    if isinstance(value, Mapping):
        return {name: to_tensors(each, device) for name, each in value.items()}
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise ModelFailed(
            "torch has no tensors of texts; deploy a function that converts the texts and calls "
            "the module"
        )
    # A tensor shares the memory of its array, and torch has no tensors that are read-only.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def to_arrays(result: Any) -> Any:
    """Return the arrays of a tensor, or of the tensors of a tuple, list, dictionary or ModelOutput.

    The members of a `ModelOutput` of transformers that are no tensors, such as a cache, are left out.
    """
    import torch

    if isinstance(result, torch.Tensor):
        plain = result.detach().cpu()
        # numpy has no bfloat16; float32 holds each of its values.
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    if isinstance(result, Mapping):
        is_output = hasattr(result, "to_tuple")
        return {
            str(name): to_arrays(each)
            for name, each in result.items()
            if isinstance(each, torch.Tensor) or not is_output
        }
    if isinstance(result, tuple) and hasattr(result, "_asdict"):
        return to_arrays(result._asdict())
    if isinstance(result, (tuple, list)) and all(isinstance(each, torch.Tensor) for each in result):
        return tuple(to_arrays(each) for each in result)
    return result


def call(module: Any, method: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the arrays that a module answers to arrays, without gradients.

    Args:
        module: The module, whose parameters give the device.
        method: The module, or one of its methods.
        args: Arrays, or one dictionary of arrays.
        kwargs: Arrays by name.

    Raises:
        ModelFailed: the module fails because the inputs have another type than its parameters.
    """
    import torch

    parameter = next(module.parameters(), None)
    device = "cpu" if parameter is None else parameter.device
    tensors = [to_tensors(each, device) for each in args]
    named = to_tensors(kwargs, device)
    with torch.inference_mode():
        try:
            return to_arrays(method(*tensors, **named))
        except RuntimeError as error:
            given = _floats([*tensors, *named.values()])
            if parameter is None or not given or given == {parameter.dtype}:
                raise
            names = ", ".join(sorted(_name(each) for each in given))
            raise ModelFailed(
                f"{error}; the inputs are {names}, and the parameters of the module are "
                f"{_name(parameter.dtype)}: give inputs of that type, such as "
                f"x.astype({_name(parameter.dtype)!r})"
            ) from error


def _floats(values: list[Any]) -> set[Any]:
    import torch

    flat = [
        inner for each in values for inner in (each.values() if isinstance(each, dict) else [each])
    ]
    return {
        each.dtype for each in flat if isinstance(each, torch.Tensor) and each.is_floating_point()
    }


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Set a module to evaluation, and restore the mode of each part afterwards."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        yield
    finally:
        for each in training:
            each.training = True


def datatype_of(dtype: Any) -> DataType:
    """Return the datatype for a type of torch.

    Raises:
        InvalidInput: none holds it, such as for complex numbers.
    """
    import torch

    if dtype == torch.bfloat16:
        return DataType.BF16
    return DataType.of(torch.empty(0, dtype=dtype).numpy().dtype)
