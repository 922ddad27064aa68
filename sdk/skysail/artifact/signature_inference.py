"""Inference of a signature by a call of the function, which also finds mistakes early."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skysail.artifact.examples import Example
from skysail.artifact.function_styles import called_code
from skysail.notebook import cell_of
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.local_function import LocalFunction
from skysail_common.model_functions import (
    LIST_OUTPUT,
    checked_outputs,
)
from skysail_common.output_inference import BATCH_ADVICE, merged_outputs, merged_specs, output_specs
from skysail_common.tensors import (
    CLIPPER_SPECS,
    InputType,
    Signature,
    TensorSpec,
)

_SINGLE_ADVICE = (
    "; with batch=False it is called with one input, without a batch axis, and the example is one "
    "input; a function of batches is deployed without batch=False"
)


def check_callable(function: Any) -> None:
    """Check that an object is a function that can answer queries.

    Raises:
        InvalidInput: the object is not callable, or is a class or a generator function.
    """
    name = getattr(function, "__qualname__", type(function).__name__)
    if inspect.isclass(function):
        raise InvalidInput(
            f"cannot deploy {name}: it is a class without a method 'predict'; deploy a method of an "
            f"instance, such as {name}(...).score, or an instance that can be called"
        )
    if not callable(function):
        raise InvalidInput(
            f"cannot deploy a {type(function).__name__}: it is no function and has no method "
            "'predict'; give method= if another method answers"
        )
    called = called_code(function)
    if inspect.isasyncgenfunction(called) or inspect.isgeneratorfunction(called):
        raise InvalidInput(
            f"cannot deploy {name}: it is a generator function, and a query has one answer; return a "
            "list of all outputs instead of yielding them"
        )


def infer_signature(
    function: LocalFunction, examples: Sequence[Example], *, tries_batch: bool
) -> Signature:
    """Return the signature of a function, inferred from its answers to examples.

    Args:
        function: Function, called with each example.
        examples: Examples; an axis whose size differs between them may have any size.
        tries_batch: True to call it with two rows if the first example has one.

    Raises:
        InvalidInput: the examples differ in more than sizes.
        ModelFailed: the function fails on an example, or returns no arrays.
    """
    answers = [_answer(function, example) for example in examples]
    signature = Signature(
        merged_inputs(examples),
        merged_outputs([answer.specs for answer in answers]),
        examples[0].frame.library if examples[0].frame else "",
    )
    first = examples[0]
    if tries_batch and function.style.batch and first.num_rows == 1:
        try:
            outputs = function.outputs(first.repeated(2), 2)
            checked_outputs(outputs, answers[0].loose_specs, 2)
        except Exception as error:
            what = error.message if isinstance(error, ModelFailed) else _describe(error)
            raise ModelFailed(
                f"the function answers one row, but not two rows at once: {what}{BATCH_ADVICE}; if "
                "it takes a batch of one row only, give max_batch_size=1"
            ) from error
    return signature


def merged_inputs(examples: Sequence[Example]) -> tuple[TensorSpec, ...]:
    """Return the inputs of examples, in which a size that differs between them is variable.

    Raises:
        InvalidInput: the examples differ in more than sizes.
    """
    return merged_specs([example.specs for example in examples], "input", InvalidInput)


@dataclass(frozen=True)
class _Answer:
    specs: tuple[TensorSpec, ...]
    loose_specs: tuple[TensorSpec, ...]
    """The specifications with every size variable."""


def _answer(function: LocalFunction, example: Example) -> _Answer:
    advice = BATCH_ADVICE if function.style.batch else ""
    try:
        # The function gets copies, because it may write to its inputs.
        outputs = function.outputs(example.copied(), example.num_rows)
    except ModelFailed:
        raise
    except Exception as error:
        raise ModelFailed(
            f"the function failed on the example: {_describe(error)}{_advice(function, example, error)}"
        ) from error
    specs = output_specs(outputs, example.num_rows, advice)
    loose = tuple(
        TensorSpec(spec.name, spec.datatype, (-1,) * len(spec.shape), spec.content)
        for spec in specs
    )
    return _Answer(specs, loose)


def _describe(error: Exception) -> str:
    return ": ".join(filter(None, [type(error).__name__, str(error)])) + cell_of(error)


def _advice(function: LocalFunction, example: Example, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            "; the function runs on this machine to learn its signature: install "
            f"{error.name} here too, or name its package in pkgs_to_install, so that the first "
            "replica learns it"
        )
    if ("Tensor" in str(error) and "ndarray" in str(error)) or _is_torch_module(function.function):
        return (
            "; functions are called with numpy arrays: deploy one that converts them, such as "
            "lambda x: model(torch.from_numpy(x)).detach().numpy()"
        )
    if isinstance(error, TypeError) and "'params'" in str(error):
        return (
            "; a function that takes parameters of queries has them as its last, keyword-only "
            "argument, such as def predict(x, *, params)"
        )
    if not function.style.batch:
        return _SINGLE_ADVICE if _answers(function, example.copied()) else ""
    if example.frame is None and all(each.ndim == 1 for each in example.arrays.values()):
        as_batch = {name: each[np.newaxis] for name, each in example.copied().items()}
        if _answers(function, as_batch):
            return "; the example needs a batch axis: give X[:1] in place of X[0]"
    return BATCH_ADVICE if _answers(function, example.first_row()) else ""


def _is_torch_module(function: Any) -> bool:
    return any(cls.__module__.startswith("torch.nn") for cls in type(function).__mro__)


def _answers(function: LocalFunction, inputs: Mapping[str, Any]) -> bool:
    """Return whether one call answers inputs."""
    try:
        return function.call(inputs) is not None
    except Exception:
        return False


_VALUES: dict[InputType, tuple[Any, Any]] = {
    InputType.INTEGERS: (np.array([1, 2], np.int32), np.array([3, 4], np.int32)),
    InputType.FLOATS: (np.array([1, 2], np.float32), np.array([3, 4], np.float32)),
    InputType.DOUBLES: (np.array([1, 2], np.float64), np.array([3, 4], np.float64)),
    InputType.BYTES: (b"an example", b"another"),
    InputType.STRINGS: ("an example", "another"),
}


def signature_for_type(name: str) -> tuple[InputType, Signature]:
    """Return the signature of a function on lists of values of a type.

    Raises:
        InvalidInput: the type is unknown, or is `tensors`.
    """
    input_type = InputType.named(name)
    spec = CLIPPER_SPECS.get(input_type)
    if spec is None:
        raise InvalidInput(
            "cannot use the input_type 'tensors': it does not define a signature; give an example"
        )
    return input_type, Signature((spec,), (LIST_OUTPUT,))


def check_with_sample_inputs(function: LocalFunction, input_type: InputType) -> None:
    """Call a function with two sample values, and report an error that any value would cause.

    A function may rightly refuse sample values, so that most errors are ignored.

    Raises:
        ModelFailed: the function uses an unknown name, takes one value in place of a list or the
            other way round, or does not return an output for each.
    """
    inputs = [
        np.array(value) if isinstance(value, np.ndarray) else value for value in _VALUES[input_type]
    ]
    is_batch = function.style.batch
    other = {"input": inputs[0] if is_batch else list(inputs)}
    advice = BATCH_ADVICE if is_batch else _SINGLE_ADVICE
    try:
        outputs = function.outputs({"input": list(inputs)}, len(inputs))
    except ModelFailed as error:
        raise ModelFailed(f"{error.message}{advice}{_UNCHECKED}") from error
    except Exception as error:
        takes_other = _answers(function, other)
        if takes_other or _is_mistake(error):
            form = "a list of two" if is_batch else "two"
            raise ModelFailed(
                f"the function failed on {form} made-up {input_type.name.lower()}: "
                f"{_describe(error)}{advice if takes_other else ''}{_UNCHECKED}"
            ) from error
        return
    try:
        checked_outputs(outputs, (LIST_OUTPUT,), len(inputs))
    except ModelFailed as error:
        raise ModelFailed(f"{error.message}{advice}{_UNCHECKED}") from error


_UNCHECKED = "; if it is right for real inputs, deploy it with check=False"


def _is_mistake(error: Exception) -> bool:
    """Return whether an error would occur for any input."""
    if isinstance(error, NameError):
        return True
    # A lookup with a sample value may give None.
    return isinstance(error, (AttributeError, TypeError)) and "NoneType" not in str(error)
