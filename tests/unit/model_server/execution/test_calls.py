import numpy as np
import pytest

from skysail_common.call_style import CallStyle
from skysail_common.errors import Status
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.tensors import (
    CLIPPER_SPECS,
    Content,
    DataType,
    InputType,
    Signature,
    TensorSpec,
)
from skysail_model_server.model import Model
from skysail_protos.v1 import model_server_pb2
from unit.model_server.execution.batches import (
    OUT,
    TEXT,
    X,
    Y,
    execution,
    make_batch,
    query,
    run,
    texts,
)


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
    result = execution(Model(lambda x: x, CallStyle(), signature)).run(
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
    result = execution(Model(function, CallStyle(), signature)).run(batch)
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
    result = execution(Model(lambda x: x, CallStyle(), signature)).run(batch)
    assert [error.index for error in result.errors] == list(range(len(batch.rows)))
    assert {error.code for error in result.errors} == {Status.INVALID_ARGUMENT}
    assert not result.outputs
