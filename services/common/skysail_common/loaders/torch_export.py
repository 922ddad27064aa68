"""Programs of `torch.export`, as `torch.export.save` writes them."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from skysail_common.errors import InvalidInput
from skysail_common.loaders import torch_tensors
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.rows import answer_in_parts, rows_at_once
from skysail_common.model_functions import OUTPUT_NAME, Function
from skysail_common.tensors import Array, Signature, TensorSpec

PROGRAM_FILE = "model.pt2"

_ADVICE = (
    "export it with dynamic_shapes, such as "
    "({0: torch.export.Dim('batch')},), or with an example of one row"
)


class TorchExportLoader(Loader):
    """The loader of an exported program, which needs no code of the user."""

    _program: Any = None

    @override
    def load(self, context: ModelContext) -> Function:
        import torch

        torch_tensors.prepare(context)
        self._program = torch.export.load(str(context.data(PROGRAM_FILE)))
        return program_function(self._program, context.device)

    @override
    def signature(self) -> Signature:
        return program_signature(self._program)


def program_function(program: Any, device: str) -> Function:
    """Return the function of arrays by name that runs a program.

    Raises:
        InvalidInput: the program takes batches of one size only.
    """
    from torch.export.passes import move_to_device_pass
    from torch.utils import _pytree

    inputs = _inputs(program)
    rows = _rows(program, inputs)
    if any(each.device.type != device.partition(":")[0] for each in _weights(program)):
        program = move_to_device_pass(program, device)
    module = program.module()
    # The arguments may be nested in tuples and dictionaries.
    structure = program.call_spec.in_spec

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [
            torch_tensors.to_tensors(arrays[name], device).to(value.dtype)
            for name, value in inputs.items()
        ]
        args, kwargs = _pytree.tree_unflatten(tensors, structure)
        return _named(torch_tensors.to_arrays(module(*args, **kwargs)))

    def predict(arrays: Mapping[str, Array]) -> dict[str, Array]:
        import torch

        with torch.inference_mode():
            return answer_in_parts(run, arrays, rows)

    return predict


def program_signature(program: Any) -> Signature:
    """Return the signature that a program states.

    Raises:
        InvalidInput: an input or output is no tensor with a batch axis.
    """
    from torch.utils import _pytree

    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    outputs = [values[name] for name in program.graph_signature.user_outputs]
    named = _named(_pytree.tree_unflatten(outputs, program.call_spec.out_spec))
    return Signature(
        tuple(_spec("input", name, value) for name, value in _inputs(program).items()),
        tuple(_spec("output", name, value) for name, value in named.items()),
    )


def program_example(program: Any) -> dict[str, Array] | None:
    """Return the inputs with which a program was exported; None if numpy cannot hold them."""
    import torch
    from torch.utils import _pytree

    leaves, _ = _pytree.tree_flatten(program.example_inputs)
    names = program.graph_signature.user_inputs
    if len(leaves) != len(names) or any(each.dtype == torch.bfloat16 for each in leaves):
        return None
    return {name: torch_tensors.to_arrays(each) for name, each in zip(names, leaves, strict=True)}


def _inputs(program: Any) -> dict[str, Any]:
    """Return the inputs of a program, as tensors without data."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    return {name: values[name] for name in program.graph_signature.user_inputs}


def _weights(program: Any) -> list[Any]:
    constants = [each for each in program.constants.values() if hasattr(each, "device")]
    return [*program.state_dict.values(), *constants]


def _rows(program: Any, inputs: Mapping[str, Any]) -> int | None:
    name, value = next(iter(inputs.items()))
    size = value.shape[0]
    if isinstance(size, int):
        return rows_at_once(name, size, _ADVICE)
    bounds = program.range_constraints.get(size.node.expr)
    # The upper bound is a number of sympy, or its infinity.
    largest = getattr(bounds, "upper", None)
    return int(largest) if largest is not None and getattr(largest, "is_Integer", False) else None


def _named(result: Any) -> dict[str, Any]:
    if isinstance(result, Mapping):
        return {str(name): each for name, each in result.items()}
    if isinstance(result, (tuple, list)):
        return {f"{OUTPUT_NAME}{index}": each for index, each in enumerate(result)}
    return {OUTPUT_NAME: result}


def _spec(kind: str, name: str, value: Any) -> TensorSpec:
    shape = getattr(value, "shape", ())
    if not shape:
        raise InvalidInput(
            f"cannot deploy the program: {kind} {name!r} is no tensor with a batch axis; export a "
            "module whose inputs and outputs are tensors [batch, …]"
        )
    sizes = tuple(size if isinstance(size, int) else -1 for size in shape[1:])
    return TensorSpec(name, torch_tensors.datatype_of(value.dtype), (-1, *sizes))
