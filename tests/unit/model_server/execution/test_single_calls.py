"""Functions that take one input at a time, and coroutine functions."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import Status
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.tensors import CLIPPER_SPECS, Content, DataType, InputType, TensorSpec
from skysail_testing.examples import examples
from unit.model_server.execution.batches import (
    OUT,
    TEXT,
    X,
    Y,
    is_error,
    query,
    run,
    texts,
)

NUMBER = TensorSpec("x", DataType.FP64, (-1,))
SUM = TensorSpec("output", DataType.FP64, (-1,))
VARIABLE = TensorSpec("x", DataType.FP64, (-1, -1))
SPREAD = TensorSpec("output", DataType.FP64, (-1, -1))

ROWS = {"batch": False}
THREADS = {"batch": False, "max_concurrency": 4}
COROUTINES = {"batch": False, "is_async": True, "max_concurrency": 4}
WAYS = pytest.mark.parametrize("style", [ROWS, THREADS, COROUTINES], ids=["row", "thread", "async"])


def as_async(function, style):
    if not style.get("is_async"):
        return function

    async def coroutine(*args, **kwargs):
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    return coroutine


@WAYS
def test_each_call_gets_one_row_without_its_batch_axis(style):
    shapes = []

    def double(x):
        shapes.append(x.shape)
        x *= 2
        return x

    found = run(as_async(double, style), [query(1), query(2, 3), query(4)], **style)
    assert shapes == [(2,)] * 4
    assert [each.tolist() for each in found] == [[[2, 0]], [[4, 0], [6, 0]], [[8, 0]]]


@WAYS
def test_inputs_and_outputs_of_every_form(style):
    def function(x, y, text):
        return {"c": text.upper(), "a": x.sum(), "b": int(y) * 10}

    found = run(
        as_async(function, style),
        [
            [np.array([[1.0, 2.0]]), np.array([5]), texts("a")],
            [np.array([[3.0, 4.0], [5, 6]]), np.array([6, 7]), texts("äö", "")],
        ],
        inputs=(X, Y, TEXT),
        outputs=(
            TensorSpec("a", DataType.FP64, (-1,)),
            TensorSpec("b", DataType.INT32, (-1,)),
            TensorSpec("c", DataType.BYTES, (-1,), Content.TEXT),
        ),
        calling="keywords",
        **style,
    )
    assert [[part.tolist() for part in each] for each in found] == [
        [[3.0], [50], [b"A"]],
        [[7.0, 11.0], [60, 70], ["ÄÖ".encode(), b""]],
    ]


@WAYS
def test_an_input_type_gives_one_value(style):
    spec = CLIPPER_SPECS[InputType.STRINGS]
    found = run(
        as_async(lambda text: {"length": len(text)}, style),
        [[texts("abc", "")], [texts("x")]],
        inputs=(spec,),
        outputs=(LIST_OUTPUT,),
        calling="list",
        **style,
    )
    assert [each.tolist() for each in found] == [
        [b'{"length": 3}', b'{"length": 0}'],
        [b'{"length": 1}'],
    ]


@WAYS
def test_a_failure_fails_its_query_alone_and_calls_nothing_twice(style):
    seen = []

    def fails_for_2(x):
        seen.append(float(x))
        if x == 2:
            raise ValueError("two is odd")
        return x

    found = run(
        as_async(fails_for_2, style),
        [np.array([1.0]), np.array([2.0, 5.0]), np.array([3.0])],
        inputs=(NUMBER,),
        outputs=(SUM,),
        **style,
    )
    assert found[0].tolist() == [1.0]
    assert found[1].code == Status.INTERNAL
    assert found[1].message.startswith(
        "ValueError: two is odd (in fails_for_2, test_single_calls.py"
    )
    assert found[2].tolist() == [3.0]
    assert sorted(seen) == [1.0, 2.0, 3.0, 5.0]


@WAYS
@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "the function returned None; it must return an output for its input"),
        ([1.0, 2.0], "returned shape [1, 2] in output 'output'; its signature says [-1]"),
        ("text", "the function returned texts in output 'output'"),
        ((1.0, 2.0), "returned 'output0', 'output1' but not output 'output'"),
    ],
)
def test_a_result_that_does_not_fit_fails_its_query(style, result, message):
    found = run(
        as_async(lambda x: result if x == 2 else x, style),
        [np.array([1.0]), np.array([2.0])],
        inputs=(NUMBER,),
        outputs=(SUM,),
        **style,
    )
    assert found[0].tolist() == [1.0]
    assert message in found[1].message


@WAYS
def test_rows_of_different_sizes_fit_into_different_queries_only(style):
    found = run(
        as_async(lambda x: np.arange(float(x[0])), style),
        [np.array([[2.0]]), np.array([[3.0, 9.0]]), np.array([[1.0], [2.0]])],
        inputs=(VARIABLE,),
        outputs=(SPREAD,),
        **style,
    )
    assert [each.tolist() for each in found[:2]] == [[[0, 1]], [[0, 1, 2]]]
    assert "outputs of different sizes for the rows of one query: [1] and [2]" in found[2].message


def test_a_function_may_reuse_the_memory_of_its_result():
    memory = np.zeros(2)

    def function(x):
        memory[:] = x
        return memory

    found = run(function, [query(1, 2), query(3)], **ROWS)
    assert [each.tolist() for each in found] == [[[1, 0], [2, 0]], [[3, 0]]]


def test_threads_run_as_many_calls_side_by_side_as_allowed():
    together = threading.Barrier(4)

    def function(x):
        # Without four calls side by side this breaks.
        together.wait(10)
        return x

    found = run(function, [query(each) for each in range(8)], **THREADS)
    assert not any(map(is_error, found))


def test_coroutines_of_a_batch_run_side_by_side_up_to_the_limit():
    running: list[int] = []
    most: list[int] = []

    async def function(x):
        running.append(1)
        most.append(len(running))
        for _ in range(10):
            await asyncio.sleep(0)
        running.pop()
        return x

    found = run(function, [query(each) for each in range(20)], is_async=True, max_concurrency=7)
    assert not any(map(is_error, found))
    assert max(most) == 7


def test_a_coroutine_gets_all_rows_of_its_query_as_a_batch():
    shapes = []

    async def function(x):
        shapes.append(x.shape)
        return x * 2

    found = run(function, [query(1), query(2, 3)], is_async=True, max_concurrency=2)
    assert shapes == [(1, 2), (2, 2)]
    assert [each.tolist() for each in found] == [[[2, 0]], [[4, 0], [6, 0]]]


def _cancel_task():
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _stop_loop():
    asyncio.get_running_loop().stop()


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("misdeed", "message"),
    [
        (lambda: _raise(asyncio.CancelledError()), "CancelledError"),
        (lambda: _raise(asyncio.TimeoutError("too slow")), "TimeoutError: too slow"),
        (lambda: _raise(SystemExit(3)), "SystemExit: 3"),
        (lambda: _raise(KeyboardInterrupt()), "KeyboardInterrupt"),
        (_cancel_task, "CancelledError"),
        (_stop_loop, None),
    ],
)
def test_what_one_coroutine_does_to_itself_harms_no_other(misdeed, message):
    async def function(x):
        if x[0, 0] == 2:
            misdeed()
        await asyncio.sleep(0)
        return x

    found = run(function, [query(1), query(2), query(3)], is_async=True, max_concurrency=3)
    assert [is_error(each) for each in found] == [False, message is not None, False]
    if message is not None:
        assert message in found[1].message


def test_a_task_that_is_cancelled_as_it_returns_fails_its_query_alone():
    async def function(x):
        if x[0, 0] == 2:
            _cancel_task()
        return x

    found = run(function, [query(1), query(2), query(3)], is_async=True, max_concurrency=3)
    assert not is_error(found[0])
    assert not is_error(found[2])


VALUES = st.lists(st.lists(st.integers(-3, 9), min_size=1, max_size=4), max_size=8)


@settings(max_examples=examples(40), deadline=None)
@given(VALUES, st.sampled_from([ROWS, THREADS, COROUTINES]))
def test_the_answers_are_those_of_a_naive_loop(values: list[list[int]], style: dict[str, Any]):
    def function(x):
        if x < 0:
            raise ValueError(f"negative {x:g}")
        return np.arange(float(x) % 3 + 1) + x

    def naive(rows: list[int]) -> Any:
        try:
            answers = [function(np.float64(row)) for row in rows]
            return np.stack(answers).tolist()
        except ValueError as error:
            return str(error)

    found = run(
        as_async(function, style),
        [np.array(rows, float) for rows in values],
        inputs=(NUMBER,),
        outputs=(SPREAD,),
        **style,
    )
    for rows, answer in zip(values, found, strict=True):
        expected = naive(rows)
        if isinstance(expected, list):
            assert answer.tolist() == expected
        elif expected.startswith("negative"):
            assert answer.message.startswith(f"ValueError: {expected}")
        else:
            assert "outputs of different sizes" in answer.message


@settings(max_examples=examples(20), deadline=None)
@given(VALUES)
def test_coroutines_of_whole_queries_answer_like_a_naive_loop(values):
    def function(x):
        if (x < 0).any():
            raise ValueError("negative")
        return x * 2

    found = run(
        as_async(function, COROUTINES),
        [np.array(rows, float) for rows in values],
        inputs=(NUMBER,),
        outputs=(SUM,),
        is_async=True,
        max_concurrency=3,
    )
    for rows, answer in zip(values, found, strict=True):
        if min(rows) < 0:
            assert answer.message.startswith("ValueError: negative")
        else:
            assert answer.tolist() == [2 * row for row in rows]


def test_the_outputs_fit_the_signature_in_number_of_rows():
    found = run(lambda x: x, [query(1)], outputs=(OUT,), **ROWS)
    assert found[0].shape == (1, 2)
