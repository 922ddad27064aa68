import numpy as np
import pytest

from skysail.artifact.stated_signature import check_examples
from skysail_common.call_style import CallStyle
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_common.local_function import LocalFunction
from skysail_common.tensors import Content, DataType, Signature, TensorSpec, to_numpy

ONE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 3)),), (TensorSpec("y", DataType.FP32, (-1, 3)),)
)
TWO = Signature(
    (TensorSpec("a", DataType.INT64, (-1,)), TensorSpec("t", DataType.BYTES, (-1,), Content.TEXT)),
    ONE.outputs,
)


def fitted(signature: Signature, example: object):
    (tensors,) = check_examples(None, signature, [example])
    return tensors


def local(function):
    return LocalFunction(function, CallStyle("mapping"))


def test_numbers_get_the_datatype_that_the_format_states():
    (x,) = fitted(ONE, [[1, 2, 3]])
    assert (x.name, x.datatype, x.shape) == ("x", DataType.FP32, (1, 3))
    assert to_numpy(x).tolist() == [[1, 2, 3]]


def test_a_dictionary_is_put_in_the_order_of_the_signature():
    a, t = fitted(TWO, {"t": ["p", "q"], "a": [1, 2]})
    assert (a.name, t.name, t.content) == ("a", "t", Content.TEXT)


@pytest.mark.parametrize(
    ("signature", "example", "says"),
    [
        (ONE, [[1, 2]], r"'x': it has the shape \[1, 2\], and the model takes \[-1, 3\]"),
        (ONE, [1, 2, 3], "it has the shape"),
        (ONE, np.empty((0, 3)), "it has the shape"),
        (ONE, [["a", "b", "c"]], "BYTES, which cannot become FP32"),
        (ONE, {"z": [[1, 2, 3]]}, "it has 'z', and the model takes 'x'"),
        (ONE, [[1, 2], [3]], "'x' is not an array"),
        (TWO, [1], "the model has the inputs 'a', 't'; give a dictionary"),
        (TWO, {"a": [0.5], "t": ["x"]}, "give integers"),
        (TWO, {"a": [1, 2], "t": ["x"]}, r"different numbers of rows: \[1, 2\]"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(signature: Signature, example: object, says: str):
    with pytest.raises(InvalidInput, match=says):
        fitted(signature, example)


def test_the_model_answers_each_example():
    seen = []

    def double(inputs):
        seen.append(inputs["x"].shape)
        return {"y": inputs["x"] * 2}

    examples = [np.ones((1, 3)), np.ones((4, 3))]
    fitted = check_examples(local(double), ONE, examples)
    assert seen == [tensors[0].shape for tensors in fitted] == [(1, 3), (4, 3)]


def test_a_model_that_fails_or_answers_otherwise_is_refused():
    with pytest.raises(ModelFailed, match="failed on the example: ValueError: no"):
        check_examples(local(_raise), ONE, [np.ones((1, 3))])
    with pytest.raises(ModelFailed, match="not output 'y'"):
        check_examples(local(lambda inputs: {"z": inputs["x"]}), ONE, [np.ones((1, 3))])


def _raise(inputs):
    raise ValueError("no")
