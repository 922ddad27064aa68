from typing import Any

import numpy as np
import pytest

from skysail_common.call_style import CallStyle
from skysail_common.errors import ModelFailed
from skysail_common.model_functions import LIST_OUTPUT, Calling
from skysail_common.tensors import CLIPPER_SPECS, DataType, InputType, Signature, TensorSpec
from skysail_model_server.user_function import UserFunction

A = TensorSpec("a", DataType.FP64, (-1,))
B = TensorSpec("b", DataType.FP64, (-1,))
ONES, TWOS = np.ones(2), np.full(2, 2.0)


def output(name: str = "output") -> TensorSpec:
    return TensorSpec(name, DataType.FP64, (-1,))


def predict(
    function: Any, calling: Calling, *outputs: str, inputs: tuple[TensorSpec, ...] = (A, B)
) -> list[list[float]]:
    signature = Signature(inputs, tuple(output(name) for name in outputs or ("output",)))
    called = UserFunction(function, CallStyle(calling), signature)
    found = called.outputs(called.call([ONES, TWOS][: len(inputs)]), 2)
    return [array.tolist() for array in found]


def test_array_is_the_only_argument():
    assert predict(lambda x: x + 1, "array", inputs=(A,)) == [[2, 2]]


def test_keywords_come_by_name_whatever_their_order():
    def minus(b, a):
        return a - b

    assert predict(minus, "keywords") == [[-1, -1]]


def test_a_mapping_is_a_new_dictionary():
    def function(inputs):
        assert type(inputs) is dict
        return inputs.pop("a") - inputs["b"]

    assert predict(function, "mapping") == [[-1, -1]]


def test_a_list_has_an_element_for_each_row():
    signature = Signature((CLIPPER_SPECS[InputType.INTEGERS],), (LIST_OUTPUT,))
    called = UserFunction(lambda rows: [rows.pop().tolist(), "text"], CallStyle("list"), signature)
    assert called.takes_list
    rows = [np.array([1, 2]), np.array([3])]
    (found,) = called.outputs(called.call([rows]), 2)
    assert found.tolist() == ["[3]", "text"]
    assert len(rows) == 2, "the function has a list of its own"


def test_a_tuple_is_output0_output1_and_so_on():
    assert predict(lambda a, b: (a, b), "keywords", "output0", "output1") == [[1, 1], [2, 2]]


def test_a_dictionary_names_its_outputs_and_the_signature_orders_them():
    def function(a, b):
        return {"y": b, "unasked": a, "x": a}

    assert predict(function, "keywords", "x", "y") == [[1, 1], [2, 2]]


def test_a_result_that_does_not_match_the_signature_is_refused():
    with pytest.raises(ModelFailed, match="returned 'output0', 'output1' but not output 'output'"):
        predict(lambda a, b: (a, b), "keywords")


def test_an_exception_of_the_function_goes_through():
    with pytest.raises(ZeroDivisionError):
        predict(lambda a, b: 1 // 0, "keywords")


def test_an_object_with_a_call_method_is_a_function():
    class Scales:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def __call__(self, x):
            return x * self.factor

    assert predict(Scales(3.0), "array", inputs=(A,)) == [[3, 3]]
