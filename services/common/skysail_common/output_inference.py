"""Inference of specifications from the inputs and outputs of a function.

The SDK calls the function on this machine for it, and the first replica does if the SDK cannot.
"""

from collections.abc import Mapping, Sequence

from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.frames.nulls import NULL_MASK_SUFFIX
from skysail_common.model_functions import checked_outputs
from skysail_common.tensors import Array, Content, DataType, TensorSpec
from skysail_common.times import NANOSECONDS

BATCH_ADVICE = (
    "; it is called with a batch and must return an output for each row, such as "
    "[predict(row) for row in batch]; deploy a function of one input with batch=False"
)


def output_specs(
    outputs: Mapping[str, Array], num_rows: int, advice: str = BATCH_ADVICE
) -> tuple[TensorSpec, ...]:
    """Return specifications of outputs of these shapes, with any number of rows.

    Args:
        outputs: Outputs [batch, …] by name.
        num_rows: Rows of the input.
        advice: End of the error about a wrong number of rows.

    Raises:
        ModelFailed: there is no output, or one has no row for each row of the input.
    """
    if not outputs:
        raise ModelFailed("the function returned an empty dict or tuple")
    for name in outputs:
        if name.endswith(NULL_MASK_SUFFIX) and name.removesuffix(NULL_MASK_SUFFIX) not in outputs:
            raise ModelFailed(
                "the function returned only missing values in output "
                f"{name.removesuffix(NULL_MASK_SUFFIX)!r}, which show no type; give an example for "
                "which it returns others"
            )
    specs = tuple(_output_spec(name, array) for name, array in outputs.items())
    try:
        checked_outputs(outputs, specs, num_rows)
    except ModelFailed as error:
        raise ModelFailed(f"{error.message}{advice}") from error
    return specs


def merged_outputs(answers: Sequence[tuple[TensorSpec, ...]]) -> tuple[TensorSpec, ...]:
    """Return the outputs of several answers, in which a size that differs is variable.

    Raises:
        ModelFailed: the answers differ in more than sizes.
    """
    return merged_specs(_with_all_masks(answers), "output", ModelFailed)


def _output_spec(name: str, array: Array) -> TensorSpec:
    if array.ndim == 0:
        raise ModelFailed(
            f"the function returned a single value; it must return one for each row{BATCH_ADVICE}"
        )
    if 0 in array.shape[1:]:
        raise ModelFailed(f"the function returned an axis of size 0 in output {name!r}")
    if array.dtype.kind == "O":
        is_text = all(isinstance(element, str) for element in array.ravel().tolist())
        content = Content.TEXT if is_text else Content.BINARY
        return TensorSpec(name, DataType.BYTES, (-1, *array.shape[1:]), content)
    if array.dtype.kind in NANOSECONDS:
        content = Content.DATETIME if array.dtype.kind == "M" else Content.DURATION
        return TensorSpec(name, DataType.INT64, (-1, *array.shape[1:]), content)
    is_mask = array.dtype == bool and name.endswith(NULL_MASK_SUFFIX)
    content = Content.NULL_MASK if is_mask else Content.BINARY
    return TensorSpec(name, DataType.of(array.dtype), (-1, *array.shape[1:]), content)


def _with_all_masks(each_specs: Sequence[tuple[TensorSpec, ...]]) -> list[tuple[TensorSpec, ...]]:
    """Return specifications that all have the masks of any, because not every answer needs one."""
    masks = {
        spec.name: spec
        for specs in each_specs
        for spec in specs
        if spec.content is Content.NULL_MASK
    }
    return [
        (
            *specs,
            *(mask for name, mask in masks.items() if name not in {each.name for each in specs}),
        )
        for specs in each_specs
    ]


def merged_specs(
    each_specs: Sequence[tuple[TensorSpec, ...]], kind: str, error: type[InvalidInput | ModelFailed]
) -> tuple[TensorSpec, ...]:
    """Return specifications in which a size that differs between examples is variable."""
    first, *others = each_specs
    merged = {spec.name: spec for spec in first}
    for specs in others:
        if {spec.name for spec in specs} != merged.keys():
            raise error(
                f"the examples have different {kind}s: {sorted(merged)} and "
                f"{sorted(spec.name for spec in specs)}"
            )
        for spec in specs:
            known = merged[spec.name]
            if (known.datatype, known.content, len(known.shape)) != (
                spec.datatype,
                spec.content,
                len(spec.shape),
            ):
                raise error(
                    f"the examples disagree about {kind} {spec.name!r}: {_named(known)} and "
                    f"{_named(spec)}; only sizes may differ"
                )
            shape = tuple(
                size if size == other else -1
                for size, other in zip(known.shape, spec.shape, strict=True)
            )
            merged[spec.name] = TensorSpec(spec.name, spec.datatype, shape, spec.content)
    return tuple(merged.values())


def _named(spec: TensorSpec) -> str:
    content = f" ({spec.content.name.lower()})" if spec.datatype is DataType.BYTES else ""
    return f"{spec.datatype.name}{content} {list(spec.shape)}"
