import logging
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import Status
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.tensors import CLIPPER_SPECS, DataType, InputType, TensorSpec
from skysail_testing.examples import examples
from unit.model_server.execution.batches import POISON, is_error, query, run, texts


def fussy(x):
    if (x == POISON).any():
        raise ValueError("no beast here")
    return x


@pytest.mark.parametrize("bad", [0, 1, 7, 14, 15])
def test_one_bad_query_of_sixteen_fails_alone(bad: int):
    calls = []

    def function(x):
        calls.append(len(x))
        return fussy(x)

    queries = [query(POISON if index == bad else index) for index in range(16)]
    found = run(function, queries)
    assert [index for index, each in enumerate(found) if is_error(each)] == [bad]
    assert found[bad].code == Status.INTERNAL
    assert found[bad].message.startswith(
        "ValueError: no beast here (in fussy, test_isolation.py line "
    )
    for index in set(range(16)) - {bad}:
        assert found[index].tolist() == queries[index].tolist()
    # The bisection calls with the whole batch, then twice at each of four depths.
    assert len(calls) == 9


def test_a_bad_query_is_logged_once_with_the_traceback_of_the_user_alone(caplog):
    run(fussy, [query(POISON), query(1)])
    (record,) = caplog.records
    text = logging.Formatter().formatException(record.exc_info)
    first, file, code, *_, error = text.splitlines()
    assert first == "Traceback (most recent call last):"
    assert file.endswith("in fussy")
    assert code.strip() == 'raise ValueError("no beast here")'
    assert error == "ValueError: no beast here"


def test_every_bad_query_fails():
    found = run(fussy, [query(POISON)] * 5)
    assert [each.index for each in found] == [0, 1, 2, 3, 4]


def test_a_bad_row_fails_its_whole_query():
    found = run(fussy, [query(1, POISON, 2), query(3)])
    assert [is_error(each) for each in found] == [True, False]


def test_a_bad_query_is_isolated_among_different_shapes():
    spec = TensorSpec("x", DataType.FP64, (-1, -1))
    queries = [np.ones((1, 1)), np.ones((1, 2)), np.full((1, 2), POISON), np.ones((1, 3))]
    found = run(fussy, queries, (spec,), (TensorSpec("output", DataType.FP64, (-1, -1)),))
    assert [is_error(each) for each in found] == [False, False, True, False]
    assert found[3].shape == (1, 3)


def test_a_bad_query_is_isolated_in_a_list():
    def function(rows):
        return [1 / (row.sum() != POISON) for row in rows]

    with np.errstate(divide="raise"):
        found = run(
            function,
            [np.array([[1.0]]), np.array([[POISON, 0.0]]), np.array([[2.0, 3.0]])],
            (CLIPPER_SPECS[InputType.DOUBLES],),
            (LIST_OUTPUT,),
            "list",
        )
    assert [is_error(each) for each in found] == [False, True, False]


def test_a_failed_call_leaves_no_trace_in_the_inputs_of_the_next():
    def scale_in_place(x):
        x *= 10
        if (x == POISON * 10).any():
            raise ValueError
        return x

    found = run(scale_in_place, [query(1), query(POISON), query(3), query(4)])
    assert [each.tolist() for each in found if not is_error(each)] == [
        [[10, 0]],
        [[30, 0]],
        [[40, 0]],
    ]


def test_a_failed_call_leaves_no_trace_in_the_list_of_the_next():
    def scale_in_place(rows):
        for row in rows:
            row *= 10
        if any(row[0] == POISON * 10 for row in rows):
            raise ValueError
        return [float(row[0]) for row in rows]

    found = run(
        scale_in_place,
        [np.array([[1.0]]), np.array([[POISON]]), np.array([[3.0, 0.0]])],
        (CLIPPER_SPECS[InputType.DOUBLES],),
        (LIST_OUTPUT,),
        "list",
    )
    assert [each.tolist() for each in found if not is_error(each)] == [[b"10.0"], [b"30.0"]]


def test_a_function_may_reuse_the_memory_of_its_outputs():
    memory = np.zeros((16, 2))

    def function(x):
        fussy(x)
        memory[: len(x)] = x
        return memory[: len(x)]

    queries = [query(index) for index in range(15)] + [query(POISON)]
    found = run(function, queries)
    assert [each.tolist() for each in found[:15]] == [each.tolist() for each in queries[:15]]


def test_sys_exit_in_user_code_does_not_end_the_replica():
    def function(x):
        if (x == POISON).any():
            sys.exit(1)
        return x

    found = run(function, [query(1), query(POISON), query(2)])
    assert [is_error(each) for each in found] == [False, True, False]


def test_a_list_of_another_length_fails_only_its_queries():
    def forgetful(rows):
        return [0 for row in rows if row[0] != POISON]

    found = run(
        forgetful,
        [np.array([[1.0]]), np.array([[POISON]]), np.array([[3.0]])],
        (CLIPPER_SPECS[InputType.DOUBLES],),
        (LIST_OUTPUT,),
        "list",
    )
    assert [is_error(each) for each in found] == [False, True, False]


poisons = st.lists(
    st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=24
)


@settings(max_examples=examples(60))
@given(poisons, st.sampled_from(["raises", "loses a row", "exits", "mutates"]))
def test_exactly_the_poisoned_queries_fail(shape_of, how):
    def function(x):
        is_bad = (x == POISON).any()
        if how == "mutates":
            x += 1
            if is_bad:
                raise ValueError
            return x
        if is_bad and how == "raises":
            raise ValueError
        if is_bad and how == "exits":
            sys.exit()
        return x[1:] + 1 if is_bad else x + 1

    spec = TensorSpec("x", DataType.FP64, (-1, -1))
    queries = []
    for number, (is_bad, rows, width) in enumerate(shape_of):
        array = np.arange(float(rows * width)).reshape(rows, width) + 1000 * number
        if is_bad:
            array[-1, -1] = POISON
        queries.append(array)
    found = run(function, queries, (spec,), (TensorSpec("output", DataType.FP64, (-1, -1)),))
    assert [is_error(each) for each in found] == [is_bad for is_bad, _, _ in shape_of]
    for sent, got in zip(queries, found, strict=True):
        if not is_error(got):
            assert np.array_equal(got, sent + 1)


@settings(max_examples=examples(60))
@given(
    st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=3), min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_exactly_the_poisoned_texts_fail(values, poisoned):
    def function(rows):
        if any(row.startswith("poison") for row in rows):
            raise ValueError
        return [row + "!" for row in rows]

    queries = [
        texts(*(f"poison{text}" if index in poisoned else f"good{text}" for text in each))
        for index, each in enumerate(values)
    ]
    found = run(function, queries, (CLIPPER_SPECS[InputType.STRINGS],), (LIST_OUTPUT,), "list")
    for index, (sent, got) in enumerate(zip(queries, found, strict=True)):
        assert is_error(got) == (index in poisoned)
        if not is_error(got):
            assert got.tolist() == [f"{text}!".encode() for text in sent]
