"""The signature of a model that could not run on the machine of its deploy."""

from collections.abc import Sequence

from skysail_common.errors import FailedPrecondition
from skysail_common.frames.columns import FrameBuilder
from skysail_common.loaders.base import Loader
from skysail_common.local_function import LocalFunction
from skysail_common.output_inference import merged_outputs, output_specs
from skysail_common.tensors import Array, Signature, TensorSpec


def learn_signature(
    loader: Loader,
    function: LocalFunction,
    stated: Signature,
    examples: Sequence[Sequence[Array]],
    frames: FrameBuilder | None = None,
) -> Signature:
    """Return the signature of a loaded model, of which the artifact states a part.

    The model states it itself, or its answers to the examples show the outputs.

    Args:
        loader: The loader of the model.
        function: The function that the loader returned.
        stated: What the artifact states; its inputs are those of the examples.
        examples: Inputs [batch, …] of each example, in the order of the stated ones.
        frames: Builder of the data frames that the function takes; None if it takes none.

    Raises:
        FailedPrecondition: neither the model nor an example shows the signature.
        ModelFailed: the outputs have no form in a signature.
        Exception: the exception of the function.
    """
    told = loader.signature()
    if told is not None and told.is_known:
        return Signature(stated.inputs or told.inputs, told.outputs, stated.frame)
    if not examples:
        raise FailedPrecondition(
            "cannot learn the signature: the model does not state its inputs and outputs; deploy it "
            "with an example"
        )
    answers = [_outputs_of(function, stated.inputs, example, frames) for example in examples]
    return Signature(stated.inputs, merged_outputs(answers), stated.frame)


def _outputs_of(
    function: LocalFunction,
    inputs: Sequence[TensorSpec],
    example: Sequence[Array],
    frames: FrameBuilder | None,
) -> tuple[TensorSpec, ...]:
    # The function gets copies, because it may write to its inputs.
    named = {spec.name: each.copy() for spec, each in zip(inputs, example, strict=True)}
    given = {"frame": frames.build(named)} if frames is not None else named
    num_rows = len(example[0])
    return output_specs(function.outputs(given, num_rows), num_rows)
