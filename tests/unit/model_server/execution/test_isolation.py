import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.clock import NEVER
from skysail_common.errors import InvalidInput, ModelNotFound, Status, Unavailable
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.tensors import (
    CLIPPER_SPECS,
    Content,
    DataType,
    InputType,
    Signature,
    TensorSpec,
    from_numpy,
    split_bytes_elements,
)
from skysail_model_server.call_watchdog import CallWatchdog
from skysail_model_server.execution import Execution
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2
from skysail_testing.clock import FakeClock
from skysail_testing.examples import examples

X = TensorSpec("x", DataType.FP64, (-1, 2))
Y = TensorSpec("y", DataType.INT32, (-1,))
TEXT = TensorSpec("text", DataType.BYTES, (-1,), Content.TEXT)
OUT = TensorSpec("output", DataType.FP64, (-1, 2))
POISON = 666.0


def texts(*values: str | bytes) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def make_batch(
    signature: Signature, queries: Sequence[Sequence[np.ndarray]]
) -> model_server_pb2.Batch:
    """Join queries to a batch, as a frontend does; each query is a list of input arrays."""
    batch = model_server_pb2.Batch(id=7, rows=[len(query[0]) for query in queries])
    for index, spec in enumerate(signature.inputs):
        parts = []
        for query in queries:
            array = query[index]
            if spec.datatype is not DataType.BYTES:
                array = array.astype(spec.datatype.dtype)
            parts.append(from_numpy(spec.name, array).data)
        batch.inputs.append(b"".join(parts))
    for query in queries:
        for spec, array in zip(signature.inputs, query, strict=True):
            batch.variable_dims.extend(array.shape[axis] for axis in spec.variable_axes)
    return batch


def answers(
    signature: Signature, batch: model_server_pb2.Batch, result: model_server_pb2.BatchResult
) -> list[Any]:
    """Split a result into the outputs or the error of each query; fail if bytes are left."""
    errors = {error.index: error for error in result.errors}
    assert len(errors) == len(result.errors), "no query has two errors"
    data = [memoryview(each) for each in result.outputs]
    dims, sizes = iter(result.variable_dims), iter(result.bytes_sizes)
    found: list[Any] = []
    for index, rows in enumerate(batch.rows):
        if index in errors:
            found.append(errors[index])
            continue
        outputs = []
        for number, spec in enumerate(signature.outputs):
            shape = (rows, *(next(dims) if size == -1 else size for size in spec.shape[1:]))
            count = int(np.prod(shape))
            is_bytes = spec.datatype is DataType.BYTES
            length = next(sizes) if is_bytes else count * spec.datatype.element_bytes
            part, data[number] = bytes(data[number][:length]), data[number][length:]
            if is_bytes:
                outputs.append(texts(*split_bytes_elements(part, count)).reshape(shape))
            elif spec.datatype is DataType.BF16:
                outputs.append(np.frombuffer(part, "<u2").reshape(shape))
            else:
                outputs.append(np.frombuffer(part, spec.datatype.dtype).reshape(shape))
        found.append(outputs[0] if len(outputs) == 1 else outputs)
    if len(result.outputs):
        assert all(not each for each in data), "outputs have more than the queries"
    assert next(dims, None) is None
    assert next(sizes, None) is None
    return found


def execution(model: Model) -> Execution:
    return Execution(model, CallWatchdog(NEVER, FakeClock()))


def run(
    function,
    queries,
    inputs: Sequence[TensorSpec] = (X,),
    outputs: Sequence[TensorSpec] = (OUT,),
    calling: str = "array",
) -> list[Any]:
    signature = Signature(tuple(inputs), tuple(outputs))
    batch = make_batch(
        signature, [[query] if isinstance(query, np.ndarray) else query for query in queries]
    )
    result = execution(Model(function, calling, signature)).run(batch)
    assert result.id == 7
    return answers(signature, batch, result)


def query(*values: float) -> np.ndarray:
    """Return a query with one row [value, 0] per value."""
    return np.array([[value, 0.0] for value in values])


def is_error(answer: Any) -> bool:
    return isinstance(answer, model_server_pb2.BatchError)


def test_queries_of_several_rows_are_answered_in_order_by_one_call():
    calls = []

    def double(x):
        calls.append(x.shape)
        return x * 2

    found = run(double, [query(1), query(2, 3), query(4)])
    assert calls == [(4, 2)]
    assert [each.tolist() for each in found] == [[[2, 0]], [[4, 0], [6, 0]], [[8, 0]]]


def test_an_empty_batch_is_answered_without_a_call():
    assert run(lambda x: 1 / 0, []) == []


def test_the_result_has_the_time_of_the_function():
    signature = Signature((X,), (OUT,))
    result = execution(Model(lambda x: x, "array", signature)).run(
        make_batch(signature, [[query(1)]])
    )
    assert result.compute_us > 0


def test_several_inputs_and_outputs_of_different_types():
    def function(x, y, text):
        upper = [each.upper() for each in text]
        return {"c": upper, "a": x.sum(axis=1), "b": y * 10}

    found = run(
        function,
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
    )
    assert [[part.tolist() for part in each] for each in found] == [
        [[3.0], [50], [b"A"]],
        [[7.0, 11.0], [60, 70], ["ÄÖ".encode(), b""]],
    ]


@pytest.mark.parametrize("datatype", [each for each in DataType if each is not DataType.BYTES])
def test_every_type_of_number_comes_as_its_numpy_type(datatype: DataType):
    seen = []

    def function(x):
        seen.append((x.dtype, x.flags.writeable, x.flags.c_contiguous))
        return x

    spec = TensorSpec("x", datatype, (-1, 3))
    out = TensorSpec("output", datatype, (-1, 3))
    values = np.array([[0, 1, 1]])
    data = values.astype(datatype.dtype)
    if datatype is DataType.BF16:
        raw = (data.view("<u4") >> 16).astype("<u2").tobytes()
    else:
        raw = data.tobytes()
    batch = model_server_pb2.Batch(id=1, rows=[1], inputs=[raw])
    signature = Signature((spec,), (out,))
    result = execution(Model(function, "array", signature)).run(batch)
    assert seen == [(datatype.dtype, True, True)]
    assert result.outputs[0] == raw


def test_bytes_are_bytes_and_texts_are_str():
    seen = []

    def function(x):
        seen.append(x.tolist())
        return np.arange(float(len(x)))

    numbers = TensorSpec("output", DataType.FP64, (-1,))
    binary = TensorSpec("x", DataType.BYTES, (-1,))
    run(function, [texts(b"\xff\0", b""), texts(b"ab")], (binary,), (numbers,))
    run(function, [texts("ä", ""), texts("b\0")], (TEXT,), (numbers,))
    assert seen == [[b"\xff\0", b"", b"ab"], ["ä", "", "b\0"]]


def test_a_text_that_is_not_utf8_fails_alone():
    found = run(
        lambda x: x,
        [texts(b"a"), texts(b"\xff"), texts(b"b")],
        (TEXT,),
        (TensorSpec("output", DataType.BYTES, (-1,)),),
    )
    assert [each.tolist() for each in (found[0], found[2])] == [[b"a"], [b"b"]]
    assert found[1].code == Status.INVALID_ARGUMENT
    assert "'text' is not UTF-8" in found[1].message


def test_an_output_text_without_utf8_encoding_fails_alone():
    out = TensorSpec("output", DataType.BYTES, (-1,), Content.TEXT)
    found = run(
        lambda x: ["\ud800" if each == "bad" else each for each in x],
        [texts("a"), texts("bad"), texts("b")],
        (TEXT,),
        (out,),
    )
    assert [is_error(each) for each in found] == [False, True, False]
    assert "surrogates not allowed" in found[1].message


def test_variable_dimensions_are_grouped_by_shape():
    calls = []

    def function(x):
        calls.append(x.shape)
        return x + 1

    spec = TensorSpec("x", DataType.FP32, (-1, -1, 2))
    shapes = [(1, 3, 2), (2, 3, 2), (1, 1, 2), (1, 3, 2), (3, 3, 2)]
    queries = [np.full(shape, float(index)) for index, shape in enumerate(shapes)]
    found = run(function, queries, (spec,), (TensorSpec("output", DataType.FP32, (-1, -1, 2)),))
    assert calls == [(3, 3, 2), (1, 1, 2), (4, 3, 2)]
    for sent, got in zip(queries, found, strict=True):
        assert np.array_equal(got, sent + 1)


def test_texts_with_variable_dimensions():
    spec = TensorSpec("x", DataType.BYTES, (-1, -1), Content.TEXT)
    out = TensorSpec("output", DataType.BYTES, (-1, -1), Content.TEXT)
    queries = [texts("a", "bc").reshape(1, 2), texts("d", "", "e", "f").reshape(2, 2)]
    queries.append(texts("only").reshape(1, 1))
    found = run(lambda x: x.astype(str) + np.array("!"), queries, (spec,), (out,))
    assert [each.tolist() for each in found] == [
        [[b"a!", b"bc!"]],
        [[b"d!", b"!"], [b"e!", b"f!"]],
        [[b"only!"]],
    ]


def test_an_output_may_vary_where_the_inputs_do_not():
    found = run(
        lambda x: np.ones((len(x), int(x[0, 0]))),
        [query(3), query(3)],
        outputs=(TensorSpec("output", DataType.FP64, (-1, -1)),),
    )
    assert [each.shape for each in found] == [(1, 3), (1, 3)]


def test_a_function_of_lists_gets_ragged_rows_at_once():
    calls = []

    def sums(rows):
        calls.append([row.tolist() for row in rows])
        return [float(row.sum()) for row in rows]

    found = run(
        sums,
        [np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0]]), np.array([[1.0, 1.0, 1.0]])],
        (CLIPPER_SPECS[InputType.DOUBLES],),
        (LIST_OUTPUT,),
        "list",
    )
    assert calls == [[[1.0, 2.0], [3.0, 4.0], [5.0], [1.0, 1.0, 1.0]]]
    assert [each.tolist() for each in found] == [[b"3.0", b"7.0"], [b"5.0"], [b"3.0"]]


def test_a_function_of_lists_gets_a_list_of_str():
    def function(rows):
        assert type(rows) is list
        return [{"n": len(row)} if row else row for row in rows]

    found = run(
        function,
        [texts("ab"), texts("")],
        (CLIPPER_SPECS[InputType.STRINGS],),
        (LIST_OUTPUT,),
        "list",
    )
    assert [each.tolist() for each in found] == [[b'{"n": 2}'], [b""]]


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
    # Halving: twice at each of four depths, and the whole batch.
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


def raises(error: BaseException):
    def function(x):
        raise error

    return function


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (GeneratorExit(), "GeneratorExit"),
        (MemoryError(), "MemoryError"),
        (RecursionError("deep"), "RecursionError: deep"),
        (Mute(), "Mute"),
        (ValueError("half a pair: \ud800"), "ValueError: half a pair: ?"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 1988),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_exception_of_user_code_fails_only_its_query(error, message):
    (found,) = run(raises(error), [query(1)])
    assert found.code == Status.INTERNAL
    assert found.message.startswith(f"{message} (in function, test_isolation.py line ")


def test_sys_exit_in_user_code_does_not_end_the_replica():
    def function(x):
        if (x == POISON).any():
            sys.exit(1)
        return x

    found = run(function, [query(1), query(POISON), query(2)])
    assert [is_error(each) for each in found] == [False, True, False]


@pytest.mark.parametrize(
    "error", [InvalidInput("too dark"), ModelNotFound("model 'x' is not registered"), Unavailable()]
)
def test_an_error_of_skysail_that_the_function_raises_is_a_failure_of_the_model(error):
    (found,) = run(raises(error), [query(1)])
    assert found.code == Status.INTERNAL
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    text = f"{what} (in function, test_isolation.py line "
    assert found.message.startswith(text)


@pytest.mark.parametrize("text", ["x", "日", "\U0001f600"])
def test_the_text_of_an_error_fits_into_metadata_in_any_script(text):
    def function(x):
        exec(
            compile(f"def {'日' * 1000}(): raise ValueError(text)", "日" * 80 + ".py", "exec"),
            names,
        )
        names["日" * 1000]()

    names = {"text": text * 10_000}
    (found,) = run(function, [query(1)])
    # gRPC writes it percent-encoded; peers refuse metadata beyond 8 KiB.
    assert 2_000 < len(quote(found.message, safe="")) < 7_500
    assert found.message.endswith(")")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((1, 2)), "returned 1 rows in output 'output' for 2 rows"),
        (np.zeros((3, 2)), "returned 3 rows"),
        (np.float64(1), "returned a single value"),
        (np.zeros((2, 3)), "returned shape [2, 3] in output 'output'; its signature says [-1, 2]"),
        (np.zeros(2), "returned shape [2]"),
        ([["a", "b"]] * 2, "returned texts in output 'output'; its signature says FP64"),
        (np.zeros((2, 2), complex), "has numpy type complex128"),
        ({"other": np.zeros((2, 2))}, "returned 'other' but not output 'output'"),
        (None, "the function returned None"),
        ([[1.0], [2.0, 3.0]], "is not an array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_result_that_breaks_the_signature_fails(result, message):
    (found,) = run(lambda x: result, [query(1, 2)])
    assert found.code == Status.INTERNAL
    assert message in found.message


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


def test_nan_and_infinity_pass():
    found = run(lambda x: x, [np.array([[np.nan, np.inf]]), np.array([[-np.inf, -0.0]])])
    assert np.isnan(found[0][0, 0])
    assert found[0][0, 1] == np.inf
    assert found[1][0, 0] == -np.inf
    assert np.signbit(found[1][0, 1])


def test_bf16_is_rounded_and_keeps_nan_and_infinity():
    values = np.array([1.0, 1.00390625, 1.01, np.inf, -np.inf, 0.0], "<f4")
    nans = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], "<u4").view("<f4")
    out = TensorSpec("output", DataType.BF16, (-1, 10))
    (found,) = run(lambda x: np.concatenate([values, nans])[None], [query(1)], outputs=(out,))
    floats = (found.astype("<u4") << 16).view("<f4")[0]
    assert np.isnan(floats[6:]).all()
    assert floats[:6] == pytest.approx(values, rel=2**-8)


def test_a_wider_type_is_narrowed_as_the_signature_says():
    (found,) = run(
        lambda x: x.astype("f8")[:, 0],
        [query(1.5)],
        outputs=(TensorSpec("output", DataType.FP32, (-1,)),),
    )
    assert (found.dtype, found.tolist()) == (np.dtype("f4"), [1.5])


@pytest.mark.parametrize(
    "change",
    [
        lambda batch: batch.inputs.append(b""),
        lambda batch: batch.inputs.pop(),
        lambda batch: batch.inputs.__setitem__(0, batch.inputs[0][:-1]),
        lambda batch: batch.rows.append(1),
        lambda batch: batch.variable_dims.pop(),
        lambda batch: batch.variable_dims.append(1),
        lambda batch: batch.variable_dims.__setitem__(0, 5),
    ],
)
def test_a_batch_that_does_not_fit_the_signature_fails_as_a_whole(change):
    spec = TensorSpec("x", DataType.FP64, (-1, -1))
    signature = Signature((spec,), (OUT,))
    batch = make_batch(signature, [[query(1)], [query(2)]])
    change(batch)
    result = execution(Model(lambda x: x, "array", signature)).run(batch)
    assert [error.index for error in result.errors] == list(range(len(batch.rows)))
    assert {error.code for error in result.errors} == {Status.INVALID_ARGUMENT}
    assert not result.outputs


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


def test_bytes_in_an_output_of_texts_are_texts_or_fail_alone():
    out = TensorSpec("output", DataType.BYTES, (-1,), Content.TEXT)
    found = run(
        lambda x: [b"\xff" if each == "bad" else each.encode() for each in x],
        [texts("é"), texts("bad")],
        (TEXT,),
        (out,),
    )
    assert found[0].tolist() == ["é".encode()]
    assert found[1].code == Status.INTERNAL
    assert "returned bytes that are not UTF-8 in output 'output'" in found[1].message


def test_a_text_that_is_not_utf8_causes_no_extra_calls():
    calls = []

    def function(x):
        calls.append(x.tolist())
        return x

    values = [b"\xff" if index == 5 else b"%d" % index for index in range(16)]
    out = TensorSpec("output", DataType.BYTES, (-1,), Content.TEXT)
    found = run(function, [texts(value) for value in values], (TEXT,), (out,))
    assert [is_error(each) for each in found] == [index == 5 for index in range(16)]
    assert [len(call) for call in calls] == [5, 10]


@pytest.mark.parametrize("calling", ["array", "list"])
def test_no_call_gets_a_text_of_varying_shape_that_is_not_utf8(calling):
    calls = []

    def function(x):
        calls.append([np.asarray(each).tolist() for each in x])
        return [0] * len(x)

    spec = TensorSpec("x", DataType.BYTES, (-1, -1), Content.TEXT)
    queries = [texts("a", "b"), texts(b"\xff", "c"), texts("d", "e"), texts("f")]
    found = run(
        function,
        [each.reshape(1, -1) for each in queries],
        (spec,),
        (LIST_OUTPUT if calling == "list" else TensorSpec("output", DataType.INT64, (-1,)),),
        calling,
    )
    assert [is_error(each) for each in found] == [False, True, False, False]
    others = [[["d", "e"], ["f"]]] if calling == "list" else [[["d", "e"]], [["f"]]]
    assert calls == [[["a", "b"]], *others]


def test_long_texts_of_errors_are_cut_by_their_bytes_between_characters():
    (found,) = run(raises(ValueError("日" * 5000)), [query(1)])
    text, _, place = found.message.partition(" (in function")
    assert place
    assert text == "ValueError: " + "日" * ((2000 - len("ValueError: ")) // 3)


def test_a_lack_of_memory_is_reported_after_three_batches_in_a_row():
    signature = Signature((X,), (OUT,))
    told = []

    def function(x):
        if (x == POISON).any():
            raise MemoryError
        return x

    runs = Execution(
        Model(function, "array", signature),
        CallWatchdog(NEVER, FakeClock()),
        lambda: told.append(True),
    ).run

    def ask(*values: float) -> None:
        runs(make_batch(signature, [[query(value)] for value in values]))

    for values in ([POISON], [POISON], [1], [POISON, POISON], [POISON, 1], [POISON], [POISON]):
        ask(*values)
    assert not told
    ask(POISON)
    assert told == [True]


@pytest.mark.parametrize("is_leak", [False, True])
def test_inputs_that_need_too_much_memory_do_not_end_a_replica_that_answers_its_example(is_leak):
    signature = Signature((X,), (OUT,))
    told = []
    spent = []

    def function(x):
        if (x == POISON).any():
            spent.extend([x] * is_leak)
            raise MemoryError
        if spent:
            raise MemoryError
        return x

    model = Model(function, "array", signature)
    model.example = [query(1)]
    runs = Execution(model, CallWatchdog(NEVER, FakeClock()), lambda: told.append(True)).run
    for _ in range(3):
        assert runs(make_batch(signature, [[query(POISON)]])).errors
    assert told == [True] * is_leak


@pytest.mark.parametrize("where", ["BatchInputs.__init__", "BatchOutputs.write_to"])
def test_a_lack_of_memory_outside_the_function_fails_the_batch_and_counts(monkeypatch, where):
    signature = Signature((X,), (OUT,))
    told = []

    def lacks_memory(*args):
        raise MemoryError

    runs = Execution(
        Model(lambda x: x, "array", signature),
        CallWatchdog(NEVER, FakeClock()),
        lambda: told.append(True),
    ).run
    monkeypatch.setattr(f"skysail_model_server.batches.{where}", lacks_memory)
    for _ in range(3):
        assert told == []
        batch = make_batch(signature, [[query(1)], [query(2)]])
        result = runs(batch)
        first, second = answers(signature, batch, result)
        assert (first.code, second.code) == (Status.INTERNAL, Status.INTERNAL)
        assert first.message.startswith("MemoryError (in ")
        assert result.id == batch.id
    assert told == [True]
