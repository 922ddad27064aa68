"""Columns of a data frame as the inputs of a query: a matrix of numbers, and masks."""

import numpy as np
import pytest

from skysail_common.errors import InvalidInput
from skysail_common.tensors import (
    Content,
    DataType,
    Signature,
    Tensor,
    TensorSpec,
    from_numpy,
    to_numpy,
)
from skysail_frontend.core.lazy_tensors import PartTensor
from skysail_frontend.core.validation import validate_inputs
from skysail_frontend.ingress.column_matrix import split_columns
from unit.frontend.parts import served, signature_of, texts

AGE = TensorSpec("age", DataType.INT64, (-1,))
HEIGHT = TensorSpec("height", DataType.FP32, (-1,))
CITY = texts("city")
CITY_MASK = TensorSpec("city.is_null", DataType.BOOL, (-1,), Content.NULL_MASK)
WHEN = TensorSpec("when", DataType.INT64, (-1,), Content.DATETIME)
PEOPLE = served("people:1", signature_of(AGE, HEIGHT, CITY, CITY_MASK))
NAN = float("nan")


def named(name: str, values: list) -> Tensor:
    array = np.array(values, object if isinstance(values[0], str) else None)
    return from_numpy(name, array)


def mask(name: str, *values: bool) -> Tensor:
    return from_numpy(f"{name}.is_null", np.array(values), Content.NULL_MASK)


def checked(version, *tensors, widens: bool = True) -> list[list]:
    inputs = validate_inputs(version, tensors, 100, widens=widens)
    return [
        to_numpy(
            Tensor(spec.name, spec.datatype, (inputs.rows,), bytes(data), spec.content)
        ).tolist()
        for spec, data in zip(version.signature.inputs, inputs.data, strict=True)
    ]


PERSON = (named("age", [31]), named("height", [1.5]), named("city", ["Oslo"]))


@pytest.mark.parametrize("widens", [True, False])
def test_a_mask_may_be_absent(widens):
    person = (PERSON[0], from_numpy("height", np.array([1.5], "f4")), PERSON[2])
    assert checked(PEOPLE, *person, widens=widens) == [[31], [1.5], ["Oslo"], [False]]


def test_a_mask_alone_is_enough_if_all_are_missing():
    assert checked(PEOPLE, *PERSON[:2], mask("city", True)) == [[31], [1.5], [""], [True]]
    with pytest.raises(InvalidInput, match="'city' is absent, but its mask names elements that"):
        checked(PEOPLE, *PERSON[:2], mask("city", False))


def test_a_missing_number_without_a_mask_in_the_model_is_nan():
    only = served("m:1", signature_of(HEIGHT))
    assert np.isnan(checked(only, mask("height", True))).all()
    (heights,) = checked(only, named("height", [1, 2]), mask("height", False, True))
    assert heights[0] == 1.0
    assert np.isnan(heights[1])


def test_a_missing_time_is_the_smallest_integer():
    only = served("m:1", signature_of(WHEN))
    times = validate_inputs(only, [mask("when", True)], 10, widens=True).data[0]
    assert times == (-(2**63)).to_bytes(8, "little", signed=True)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            [mask("age", True), *PERSON[1:]],
            "input 'age' takes no missing value, because its type has none",
        ),
        (
            PERSON[1:],
            "expected 3 inputs but got 2 inputs for model 'people'. Got input(s) ['city', 'height'], "
            "but missing required input(s) ['age'].",
        ),
        (
            [*PERSON, named("x", [1])],
            "unexpected inference input 'x' for model 'people'; it takes age, height, city",
        ),
        ([*PERSON, mask("x", True)], "unexpected inference input 'x.is_null'"),
        ([*PERSON, mask("height", True, True)], "input 'height' has shape [1] and its mask [2]"),
        ([*PERSON, mask("city", True, True)], "input 'city.is_null' batch size does not match"),
        (
            [*PERSON[:2], Tensor("city.is_null", DataType.BOOL, (2**39,), b"")],
            "input 'city.is_null' batch size does not match",
        ),
    ],
)
def test_wrong_columns_are_refused(tensors, message):
    with pytest.raises(InvalidInput) as caught:
        checked(PEOPLE, *tensors)
    assert message in caught.value.message


def test_inputs_of_any_size_cost_nothing_before_the_check_of_the_rows():
    huge = [Tensor("age", DataType.INT64, (2**39,), b""), mask("height", True)]
    huge.append(Tensor("city.is_null", DataType.BOOL, (2**39,), b""))
    with pytest.raises(InvalidInput, match="batch-size must be <= 100"):
        checked(PEOPLE, *huge)


def matrix(rows: list[list[float]], dtype: str = "f8") -> Tensor:
    return from_numpy("", np.array(rows, dtype))


def split(signature: Signature, *tensors, columns: list[str]) -> dict[str, list]:
    found = split_columns(signature, tensors, columns)
    return {each.name: to_numpy(Tensor(*vars(each).values())).tolist() for each in found}


@pytest.mark.parametrize("is_part", [False, True])
def test_a_matrix_is_split_by_its_columns(is_part):
    whole = matrix([[1.5, 31.0], [1.75, 42.0]])
    if is_part:
        whole = PartTensor("", whole.datatype, whole.shape, memoryview(whole.data))
    found = split(signature_of(AGE, HEIGHT), whole, columns=["height", "age"])
    assert found == {"height": [1.5, 1.75], "age": [31, 42]}


def test_nan_is_a_missing_value_of_other_types():
    signature = signature_of(AGE, CITY)
    found = split(signature, matrix([[1.0, NAN], [NAN, NAN]]), columns=["age", "city"])
    assert found == {
        "age": [1, 0],
        "age.is_null": [False, True],
        "city.is_null": [True, True],
    }


def test_a_fraction_stays_one_so_that_it_is_refused():
    found = split(signature_of(AGE, HEIGHT), matrix([[1.5], [2.0]]), columns=["age"])
    assert found == {"age": [1.5, 2.0]}


def test_a_matrix_of_all_columns_in_order_stays_whole():
    version = served(
        "m:1", Signature((HEIGHT, TensorSpec("b", DataType.FP32, (-1,))), doubles(), "pandas")
    )
    for columns, num_parts in ((["height", "b"], 1), (["b", "height"], 2)):
        found = split_columns(version.signature, [matrix([[1.5, 2.5]])], columns)
        assert len(found) == num_parts
        inputs = validate_inputs(version, found, 10, widens=True)
        assert inputs.rows == 1
        expected = [1.5, 2.5] if num_parts == 1 else [2.5, 1.5]
        assert np.frombuffer(inputs.data[0], "f4").tolist() == expected
    short = [Tensor("", DataType.FP32, (3, 2), bytes(8))]
    with pytest.raises(InvalidInput, match="input byte size mismatch"):
        validate_inputs(version, short, 10)


def doubles() -> tuple[TensorSpec, ...]:
    return (TensorSpec("y", DataType.FP64, (-1,)),)


def test_a_model_of_one_matrix_takes_it_as_it_is():
    tensor = matrix([[1.0, 2.0]])
    doubles = signature_of(TensorSpec("x", DataType.FP64, (-1, 2)))
    assert split_columns(doubles, [tensor], ["a", "b"]) == [tensor]


@pytest.mark.parametrize(
    ("tensor", "columns", "message"),
    [
        (matrix([[1.0, 2.0]]), ["age"], r"the matrix of columns has shape \[1, 2\] and 1 names"),
        (matrix([[1.0]]), ["nope"], "unexpected column 'nope'; the model takes age, height"),
        (Tensor("", DataType.FP64, (2,), bytes(16)), ["age", "height"], r"has shape \[2\]"),
        (Tensor("", DataType.FP64, (9, 1), bytes(8)), ["age"], "needs 72 bytes, got 8"),
        (Tensor("", DataType.FP64, (-1, 1), bytes(8)), ["age"], "needs -8 bytes, got 8"),
        (Tensor("", DataType.BOOL, (1, 1), b"\1"), ["age"], "the matrix of columns has no numbers"),
    ],
)
def test_a_wrong_matrix_is_refused(tensor, columns, message):
    with pytest.raises(InvalidInput, match=message):
        split_columns(signature_of(AGE, HEIGHT), [tensor], columns)
