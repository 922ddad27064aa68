"""Mistakes in a function are found before the upload, with advice."""

import asyncio
import gc
from typing import Any

import numpy as np
import pytest

from skysail.artifact.build import Artifact, build_artifact
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.model_functions import named_outputs

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

ONE = np.ones((1, 3))
TWO = np.ones((2, 3))
BATCH_ADVICE = (
    "; it is called with a batch and must return an output for each row, such as "
    "[predict(row) for row in batch]; deploy a function of one input with batch=False"
)
CHECK_ADVICE = "; if it is right for real inputs, deploy it with check=False"


def message(function: Any, **arguments: Any) -> str:
    with pytest.raises((InvalidInput, ModelFailed)) as caught:
        build_artifact(function, **arguments)
    return caught.value.message


def shapes_of(artifact: Artifact) -> tuple[list[list[int]], list[list[int]]]:
    signature = artifact.signature
    return (
        [list(spec.shape) for spec in signature.inputs],
        [list(spec.shape) for spec in signature.outputs],
    )


async def coroutine(x):
    return x


async def asynchronous_rows(x):
    yield x


def rows(x):
    yield from x


class Model:
    def predict(self, x):
        return x

    def __call__(self, x):
        return x


class AsyncModel:
    async def __call__(self, x):
        return x

    def rows(self, x):
        yield x


@pytest.mark.parametrize("arguments", [{"example": ONE}, {"input_type": "doubles"}])
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (asynchronous_rows, "cannot deploy asynchronous_rows: it is a generator function"),
        (
            rows,
            "cannot deploy rows: it is a generator function, and a query has one answer; return",
        ),
        (AsyncModel().rows, "cannot deploy AsyncModel.rows: it is a generator function"),
        (dict, "cannot deploy dict: it is a class without a method 'predict'; deploy a method of"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_functions_that_never_answer_a_batch_are_refused(function, text, arguments):
    assert message(function, **arguments).startswith(text)


@pytest.mark.parametrize("arguments", [{"example": ONE}, {"input_type": "doubles"}])
def test_a_coroutine_or_generator_as_a_result_is_refused(arguments):
    assert "returned a coroutine, which nothing awaits; deploy an async def" in message(
        lambda x: coroutine(x), **arguments
    )
    assert "returned a generator; return a list of all outputs" in message(
        lambda x: (row for row in x), **arguments
    )
    # Python must not warn about a coroutine that was never awaited.
    gc.collect()


def test_a_coroutine_is_refused_in_a_replica_too():
    with pytest.raises(ModelFailed, match="returned a coroutine"):
        named_outputs(coroutine(1), "array")
    gc.collect()


def test_a_function_that_runs_a_coroutine_is_deployed():
    build_artifact(lambda x: asyncio.run(coroutine(x)), example=ONE)


def test_a_function_for_one_row_is_found_by_a_batch_of_two():
    def takes_one(x):
        (row,) = x
        return [row.sum()]

    def returns_one(x):
        return [x[0].sum()]

    assert message(takes_one, example=ONE) == (
        "the function answers one row, but not two rows at once: ValueError: too many values to "
        f"unpack (expected 1){BATCH_ADVICE}; if it takes a batch of one row only, give "
        "max_batch_size=1"
    )
    assert message(returns_one, example=ONE).startswith(
        "the function answers one row, but not two rows at once: the function returned 1 rows in "
        "output 'output' for 2 rows of input; "
    )
    assert message(returns_one, example=TWO) == (
        f"the function returned 1 rows in output 'output' for 2 rows of input{BATCH_ADVICE}"
    )


@pytest.mark.parametrize("arguments", [{"max_batch_size": 1}, {"check": False}])
def test_a_function_of_one_row_is_deployed_with_max_batch_size_1(arguments):
    # Elements of arrays are not restored.
    num_calls = np.zeros(1)

    def takes_one(x):
        num_calls[0] += 1
        (row,) = x
        return [row.sum()]

    build_artifact(takes_one, example=ONE, **arguments)
    assert num_calls == 1


def test_the_error_about_a_function_of_one_input_asks_for_a_batch():
    def single(x):
        return {1: "one"}[int(x.ndim)]

    assert message(single, example=ONE).endswith(f"KeyError: 2{BATCH_ADVICE}")
    assert message(lambda x: float(x.sum()), example=TWO).startswith(
        f"the function returned a single value; it must return one for each row{BATCH_ADVICE}"
    )


def test_an_error_for_every_input_comes_without_advice():
    assert message(lambda x: x[5, 5, 5], example=ONE).endswith("but 3 were indexed")


def upper(text):
    return text.upper()


def typo(inputs):
    return [sum(number) for number in input_s]  # type: ignore[name-defined]  # noqa: F821


def test_a_typo_is_found_with_an_input_type():
    assert message(typo, input_type="doubles") == (
        "the function failed on a list of two made-up doubles: NameError: name 'input_s' is not "
        f"defined{CHECK_ADVICE}"
    )
    assert message(lambda inputs: np.summ(inputs), input_type="doubles").startswith(
        "the function failed on a list of two made-up doubles: AttributeError: module 'numpy' has"
    )


def test_a_function_of_one_value_is_found_with_an_input_type():
    assert message(upper, input_type="strings") == (
        "the function failed on a list of two made-up strings: AttributeError: 'list' object has no "
        f"attribute 'upper'{BATCH_ADVICE}{CHECK_ADVICE}"
    )
    assert message(lambda inputs: len(inputs), input_type="strings").startswith(
        "the function returned a int; it must return a list with an element for each input"
    )
    assert message(lambda inputs: inputs[:1], input_type="strings").startswith(
        "the function returned 1 rows in output 'output' for 2 rows of input; "
    )


def needs_json(inputs):
    import json

    return [json.loads(text)["label"] for text in inputs]


def needs_length(inputs):
    return [np.ones(64) @ row for row in inputs]


def needs_match(inputs):
    import re

    return [re.match(r"(\d+)", text).group(1) for text in inputs]  # type: ignore[union-attr]


def needs_package(inputs):
    import nosuchpackage  # type: ignore[import-not-found]

    return nosuchpackage.answer(inputs)


def needs_known(inputs):
    return [{"cat": 1}[text] for text in inputs]


@pytest.mark.parametrize(
    ("function", "input_type"),
    [
        (needs_json, "strings"),
        (needs_length, "doubles"),
        (needs_match, "strings"),
        (needs_package, "strings"),
        (needs_known, "strings"),
    ],
)
def test_a_function_that_refuses_made_up_values_is_deployed(function, input_type):
    build_artifact(function, input_type=input_type)


@pytest.mark.parametrize("function", [typo, upper, lambda inputs: 1])
def test_the_function_does_not_run_without_a_check(function):
    build_artifact(function, input_type="strings", check=False)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("integers", "int32"),
        ("floats", "float32"),
        ("doubles", "float64"),
        ("bytes", "bytes"),
        ("strings", "str"),
    ],
)
def test_the_made_up_values_are_of_the_type(name, kind):
    def predict(inputs):
        for each in inputs:
            if str(getattr(each, "dtype", type(each).__name__)) != kind:
                # Only mistakes in the code are reported.
                raise NameError(f"{each!r} is no {kind}")
        return [1] * len(inputs)

    build_artifact(predict, input_type=name)


def test_sizes_in_which_examples_differ_are_open():
    def spans(texts):
        return np.zeros((len(texts), max(len(text.split()) for text in texts), 2))

    artifact = build_artifact(spans, examples=[["one two"], ["one two three", "four"]])
    assert shapes_of(artifact) == ([[-1]], [[-1, -1, 2]])
    assert artifact.manifest.examples == (((1,),), ((2,),))
    images = [np.zeros((1, 8, 8, 3)), np.zeros((2, 9, 8, 3))]
    assert shapes_of(build_artifact(lambda x: x, examples=images)) == (
        [[-1, -1, 8, 3]],
        [[-1, -1, 8, 3]],
    )
    columns = [{"a": [1], "b": [[1.0]]}, {"b": [[1.0, 2.0]], "a": [2]}]
    artifact = build_artifact(lambda a, b: b, examples=columns)
    assert shapes_of(artifact) == ([[-1], [-1, -1]], [[-1, -1]])


@pytest.mark.parametrize(
    ("examples", "text"),
    [
        ([], "cannot use examples: the list is empty; give at least one batch"),
        ([[1], [1.5]], "the examples disagree about input 'x': INT64 [-1] and FP64 [-1]; only"),
        ([[1], ["a"]], "the examples disagree about input 'x': INT64 [-1] and BYTES (text) [-1]"),
        ([[1], [[1]]], "the examples disagree about input 'x': INT64 [-1] and INT64 [-1, -1]"),
        ([{"a": [1]}, {"b": [1]}], "the examples have different inputs: ['a'] and ['b']"),
    ],
)
def test_examples_that_differ_in_more_than_sizes_are_refused(examples, text):
    function = (lambda x: x) if not examples or isinstance(examples[0], list) else (lambda c: [1])
    found = message(function, examples=examples)
    assert found.startswith(text.replace("INT64 [-1, -1]", "INT64 [-1, 1]"))


def test_outputs_that_differ_in_more_than_sizes_are_refused():
    def predict(x):
        return x if x.shape[1] == 1 else x.astype(str)

    assert message(predict, examples=[np.ones((1, 1)), np.ones((1, 2))]) == (
        "the examples disagree about output 'output': FP64 [-1, 1] and BYTES (text) [-1, 2]; only "
        "sizes may differ"
    )


def test_exactly_one_of_example_examples_and_input_type_is_required():
    for arguments in (
        {},
        {"example": ONE, "examples": [ONE]},
        {"examples": [ONE], "input_type": "bytes"},
    ):
        assert message(lambda x: x, **arguments) == (
            "cannot deploy the function: give exactly one of example, examples and input_type"
        )


def test_examples_of_different_lengths_as_one_batch_are_told_how():
    assert message(lambda x: x, example=[[1], [2, 3]]).endswith(
        "; for examples of different lengths give a list of batches as examples="
    )


def test_the_error_about_torch_tensors_asks_for_arrays():
    def linear(x):
        raise TypeError("linear(): argument 'input' must be Tensor, not numpy.ndarray")

    assert message(linear, example=ONE).endswith(
        "; functions are called with numpy arrays: deploy one that converts them, such as "
        "lambda x: model(torch.from_numpy(x)).detach().numpy()"
    )


def test_objects_that_are_numbers_are_numbers():
    halve = np.frompyfunc(lambda value: value / 2, 1, 1)

    def predict(x):
        return np.array([value / 2 for value in x.ravel()], dtype=object).reshape(x.shape)

    assert halve(ONE).dtype == object
    (spec,) = build_artifact(predict, example=ONE).signature.outputs
    assert spec.datatype.name == "FP64"
