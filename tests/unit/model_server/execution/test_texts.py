import numpy as np
import pytest

from skysail_common.errors import Status
from skysail_common.model_functions import LIST_OUTPUT
from skysail_common.tensors import Content, DataType, TensorSpec
from unit.model_server.execution.batches import TEXT, is_error, run, texts


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
