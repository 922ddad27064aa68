"""The signature of a model and the form of its calls, learned on this machine as far as it can."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from skysail.artifact.examples import read_examples
from skysail.artifact.function_styles import style_of
from skysail.artifact.signature_inference import (
    check_with_sample_inputs,
    infer_signature,
    merged_inputs,
    signature_for_type,
)
from skysail.artifact.stated_signature import check_examples
from skysail.packaging.base import Packaged
from skysail_common.artifacts import MAX_EXAMPLES
from skysail_common.call_style import CallStyle
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.frames.records import FrameRecord
from skysail_common.loaders.base import ModelContext
from skysail_common.local_function import LocalFunction
from skysail_common.model_functions import Calling, Function
from skysail_common.tensors import Signature, Tensor


@dataclass(frozen=True)
class Learned:
    """The signature and the form of calls, learned from the answers to the examples."""

    signature: Signature
    style: CallStyle
    examples: tuple[tuple[Tensor, ...], ...] = ()
    """Inputs of each example."""
    frame: FrameRecord | None = None
    """Columns of the data frames that the model takes."""


@dataclass(frozen=True)
class Calls:
    """The options of the caller for calls of the function."""

    batch: bool
    max_concurrency: int | None

    def style(
        self, function: Function | None, calling: Calling, inputs: Collection[str] = ()
    ) -> CallStyle:
        """Return how replicas call a function (see `style_of`); None if this machine lacks it."""
        if function is None:
            return CallStyle(calling, self.batch, max_concurrency=self.max_concurrency or 1)
        return style_of(
            function, calling, inputs, batch=self.batch, max_concurrency=self.max_concurrency
        )


def learn(
    packaged: Packaged,
    context: ModelContext,
    batches: Sequence[Any] | None,
    input_type: str | None,
    calls: Calls,
    *,
    check: bool,
    tries_batch: bool,
    has_requirements: bool,
) -> Learned:
    """Run the model on its examples, unless the format states the signature.

    The signature lacks what this machine cannot find out, because a package of the model is absent.
    The first replica then learns it.
    """
    if batches is not None and len(batches) > MAX_EXAMPLES:
        raise InvalidInput(
            f"cannot use {len(batches)} examples: a replica answers each before it is ready; give at "
            f"most {MAX_EXAMPLES}, of the smallest and the largest sizes"
        )
    if input_type is not None and packaged.calling == "list":
        named, signature = signature_for_type(input_type)
        # The format knows more of the inputs than the type says.
        if packaged.signature is not None and packaged.signature.input_type is named:
            signature = packaged.signature
        return Learned(signature, CallStyle("list"))
    if batches is None and input_type is None and packaged.signature is None:
        return Learned(Signature((), ()), CallStyle(packaged.calling))
    states_all = packaged.signature is not None and input_type is None and not batches
    function = (
        None if states_all else _open_here(packaged, context, has_requirements=has_requirements)
    )
    if packaged.signature is not None and input_type is None:
        return _stated(packaged, packaged.signature, function, batches or (), calls)
    if input_type is not None:
        made_up, signature = signature_for_type(input_type)
        style = calls.style(function, "list")
        if check and function is not None:
            check_with_sample_inputs(LocalFunction(function, style), made_up)
        return Learned(signature, style)
    if not batches:
        raise InvalidInput("cannot use examples: the list is empty; give at least one batch")
    given = read_examples(function, batches, batch=calls.batch)
    first = given[0]
    style = calls.style(function, first.calling, () if first.frame else first.arrays)
    signature = Signature(merged_inputs(given), (), first.frame.library if first.frame else "")
    if function is not None:
        local = LocalFunction(function, style)
        try:
            signature = infer_signature(local, given, tries_batch=tries_batch)
        except ModelFailed as error:
            if not (has_requirements and isinstance(error.__cause__, ImportError)):
                raise
    return Learned(signature, style, tuple(each.tensors for each in given), first.frame)


def _open_here(
    packaged: Packaged, context: ModelContext, *, has_requirements: bool
) -> Function | None:
    """Return the function of a model, or None if only a replica has the packages that it needs."""
    if packaged.open is None:
        return None
    try:
        return packaged.open(context)
    except ImportError:
        if not has_requirements:
            raise
        return None


def _stated(
    packaged: Packaged,
    signature: Signature,
    function: Function | None,
    batches: Sequence[Any],
    calls: Calls,
) -> Learned:
    """Check the examples against the signature that the format states."""
    if not calls.batch:
        raise InvalidInput(
            f"cannot call the model row by row: its format, {packaged.loader}, takes batches; leave "
            "batch= out"
        )
    style = CallStyle(packaged.calling, takes_params=packaged.takes_params)
    local = None if function is None else LocalFunction(function, style)
    return Learned(signature, style, check_examples(local, signature, batches))
