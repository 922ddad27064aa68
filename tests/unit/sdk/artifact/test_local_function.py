"""Functions of one input, coroutine functions, and functions that take parameters."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skysail.artifact.build import Artifact, build_artifact
from skysail_common.call_style import CallStyle
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_model_server.model import Model
from skysail_model_server.model_loader import load_model
from skysail_testing.artifacts import lay_out

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None


def in_replica(tmp_path: Path, artifact: Artifact) -> Model:
    return load_model(lay_out(artifact, tmp_path / "work"))


def shapes(artifact: Artifact) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    signature = artifact.signature
    return [each.shape for each in signature.inputs], [each.shape for each in signature.outputs]


def norm(x):
    assert x.shape == (3,)
    return float(np.sqrt((x * x).sum()))


async def norm_later(x):
    await asyncio.sleep(0)
    return norm(x)


@pytest.mark.parametrize("function", [norm, norm_later])
def test_a_function_of_one_input_has_an_example_of_one_input(tmp_path, function):
    artifact = build_artifact(function, example=np.array([2.0, 3.0, 6.0]), batch=False)
    assert shapes(artifact) == ([(-1, 3)], [(-1,)])
    assert not artifact.manifest.batch
    model = in_replica(tmp_path, artifact)
    assert model.predict([np.array([[2.0, 3, 6], [0, 0, 0]])], 2)[0].tolist() == [7, 0]
    model.close()


@pytest.mark.parametrize(
    ("function", "example", "inputs", "outputs"),
    [
        (lambda x: x + 1, 5.0, [(-1,)], [(-1,)]),
        (lambda text: text.upper(), "good", [(-1,)], [(-1,)]),
        (lambda x: {"a": x[0], "b": x}, [1, 2], [(-1, 2)], [(-1,), (-1, 2)]),
        (lambda x: (x, x), [1.0], [(-1, 1)], [(-1, 1), (-1, 1)]),
        (lambda a, b: a * b, {"a": 2.0, "b": np.ones(3)}, [(-1,), (-1, 3)], [(-1, 3)]),
        (lambda row: row["a"] + len(row["b"]), {"a": 2, "b": "text"}, [(-1,), (-1,)], [(-1,)]),
    ],
)
def test_one_input_of_every_form(tmp_path, function, example, inputs, outputs):
    artifact = build_artifact(function, example=example, batch=False)
    assert shapes(artifact) == (inputs, outputs)
    in_replica(tmp_path, artifact)


def test_examples_of_different_sizes_are_single_inputs(tmp_path):
    artifact = build_artifact(lambda x: x.sum(), examples=[np.ones(2), np.ones(5)], batch=False)
    assert shapes(artifact) == ([(-1, -1)], [(-1,)])
    assert artifact.manifest.examples == (((1, 2),), ((1, 5),))
    in_replica(tmp_path, artifact)


def test_an_input_type_gives_one_value():
    artifact = build_artifact(lambda text: text.upper(), input_type="strings", batch=False)
    assert artifact.manifest.calling == "list"
    assert not artifact.manifest.batch


def failure(function: Any, **arguments: Any) -> str:
    with pytest.raises((InvalidInput, ModelFailed)) as caught:
        build_artifact(function, **arguments)
    return caught.value.message


def test_batch_false_is_the_fix_for_a_function_of_one_input():
    for example in (np.ones((1, 3)), np.ones((2, 3))):
        text = failure(norm, example=example)
        assert text.endswith("; deploy a function of one input with batch=False")
    text = failure(lambda text: text.upper(), input_type="strings")
    assert "deploy a function of one input with batch=False; if it is right for real" in text


def test_a_function_of_batches_with_batch_false_is_found():
    def batches(x):
        return x.sum(axis=1)

    text = failure(batches, example=np.ones(3), batch=False)
    assert "it is called with one input, without a batch axis" in text


def test_a_result_that_is_none_is_refused():
    assert failure(lambda x: None, example=1.0, batch=False) == (
        "the function returned None; it must return an output for its input"
    )


async def doubled(x):
    await asyncio.sleep(0)
    return x * 2


class Later:
    """A model with a client that belongs to one event loop."""

    async def load(self, context: Any) -> None:
        self.loop = asyncio.get_running_loop()

    async def predict(self, x):
        assert asyncio.get_running_loop() is self.loop
        return x * 2

    async def close(self) -> None:
        assert asyncio.get_running_loop() is self.loop


class Called:
    async def __call__(self, x):
        return x * 2

    async def scaled(self, x, *, params):
        return x * params.get("factor", 2)


@pytest.mark.parametrize(
    "source",
    [doubled, partial(doubled), Called(), Called().scaled, Later, Later()],
    ids=["function", "partial", "object", "method", "class", "instance"],
)
def test_coroutine_functions_of_every_kind(tmp_path, source):
    artifact = build_artifact(source, example=np.ones((1, 2)))
    assert artifact.manifest.is_async
    assert artifact.manifest.max_concurrency == 64
    model = in_replica(tmp_path, artifact)
    assert model.predict([np.ones((2, 2))], 2)[0].tolist() == [[2, 2], [2, 2]]
    model.close()


@pytest.mark.parametrize(
    ("arguments", "style"),
    [
        ({}, {}),
        ({"batch": False}, {"batch": False}),
        ({"batch": False, "max_concurrency": 8}, {"batch": False, "max_concurrency": 8}),
    ],
)
def test_the_manifest_says_how_the_function_is_called(arguments, style):
    artifact = build_artifact(lambda x: x, example=[1.0], **arguments)
    assert artifact.manifest.call_style == CallStyle("array", **style)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_concurrency": 8}, "cannot use max_concurrency=8: the function is called with one"),
        ({"max_concurrency": 0, "batch": False}, "max_concurrency must be from 1 to 1024, got 0"),
        ({"max_concurrency": 1025, "batch": False}, "max_concurrency must be from 1 to 1024"),
    ],
)
def test_calls_that_cannot_run_side_by_side_are_refused(arguments, text):
    assert failure(lambda x: x, example=[1.0], **arguments).startswith(text)


def keyword_only(x, *, params):
    assert params == {}
    return x


def with_default(x, *, params=None):
    return x


def by_name(a, b, *, params):
    return a + b


def positional(x, params):
    return x


def an_input(a, *, params):
    return a + params


@pytest.mark.parametrize(
    ("function", "example", "takes"),
    [
        (keyword_only, [1.0], True),
        (with_default, [1.0], True),
        (by_name, {"a": [1.0], "b": [2.0]}, True),
        (an_input, {"a": [1.0], "params": [2.0]}, False),
        (lambda x, **options: x, [1.0], False),
        (lambda x: x, [1.0], False),
    ],
)
def test_a_keyword_only_argument_asks_for_parameters(function, example, takes):
    assert build_artifact(function, example=example).manifest.takes_params is takes


def test_a_positional_argument_gets_a_hint():
    assert failure(positional, example=[1.0]).endswith(
        "a function that takes parameters of queries has them as its last, keyword-only argument, "
        "such as def predict(x, *, params)"
    )


def test_each_example_is_answered_before_the_replica_is_ready(tmp_path):
    def picky(texts):
        if len(texts[0]) == 3 and _is_replica():
            raise ValueError("three")
        return [len(text) for text in texts]

    artifact = build_artifact(picky, examples=[["a"], ["abc"]])
    with pytest.raises(Exception, match="ValueError: three"):
        in_replica(tmp_path, artifact)


def _is_replica() -> bool:
    import traceback

    return any(frame.name == "warm_up" for frame in traceback.extract_stack())


def test_too_many_examples_are_refused():
    text = failure(lambda x: x, examples=[[1.0]] * 65)
    assert text.startswith("cannot use 65 examples: a replica answers each before it is ready")
