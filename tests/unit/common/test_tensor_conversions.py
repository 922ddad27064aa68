import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.tensor_conversions import cast, narrowed
from skysail_common.tensors import DataType, Tensor, from_numpy, to_numpy
from skysail_testing.examples import examples

NUMBERS = [each for each in DataType if each not in (DataType.BYTES, DataType.BF16)]
INTEGERS = [each for each in NUMBERS if each.dtype.kind in "iu"]


def tensor_of(datatype: DataType, values: list) -> Tensor:
    return from_numpy("x", np.array(values, datatype.dtype))


@pytest.mark.parametrize(
    ("source", "target", "values"),
    [
        (DataType.INT32, DataType.INT64, [-1, 2]),
        (DataType.INT64, DataType.INT32, [-(2**31), 2**31 - 1]),
        (DataType.INT64, DataType.UINT8, [0, 255]),
        (DataType.UINT8, DataType.INT8, [0, 127]),
        (DataType.UINT64, DataType.INT64, [0, 2**63 - 1]),
        (DataType.INT32, DataType.FP32, [-1, 2]),
        (DataType.INT64, DataType.FP64, [-1, 2]),
        (DataType.UINT8, DataType.FP16, [0, 255]),
        (DataType.FP32, DataType.FP64, [-1.5, 2]),
        (DataType.FP64, DataType.FP32, [-1.5, 2]),
        (DataType.FP64, DataType.FP16, [-1.5, 2]),
        (DataType.BOOL, DataType.INT32, [False, True]),
        (DataType.BOOL, DataType.FP32, [False, True]),
        (DataType.INT64, DataType.INT32, []),
    ],
)
def test_numbers_convert_if_they_keep_their_meaning(source, target, values):
    found = cast(tensor_of(source, values), target)
    assert found.name == "x"
    assert found.datatype is target
    assert to_numpy(found).dtype == target.dtype
    assert to_numpy(found).tolist() == values


@pytest.mark.parametrize(
    ("source", "target", "fix"),
    [
        (DataType.FP32, DataType.INT32, "give integers, because a fraction would be lost"),
        (DataType.FP64, DataType.INT64, "give integers, because a fraction would be lost"),
        (DataType.FP16, DataType.UINT8, "give integers, because a fraction would be lost"),
        (DataType.FP64, DataType.BOOL, "give True or False"),
        (DataType.INT32, DataType.BOOL, "give True or False"),
        (DataType.FP32, DataType.BF16, "give elements of BF16"),
        (DataType.INT32, DataType.BYTES, "give texts instead of numbers"),
    ],
)
def test_numbers_never_convert_to_a_type_of_less_meaning(source, target, fix):
    with pytest.raises(InvalidInput) as caught:
        cast(tensor_of(source, [0, 1]), target)
    assert caught.value.message == (
        f"tensor 'x' has datatype {source.name}, which cannot become {target.name}; {fix}"
    )


@pytest.mark.parametrize("target", [each for each in DataType if each is not DataType.BYTES])
def test_bytes_never_convert(target):
    with pytest.raises(InvalidInput, match="has datatype BYTES, which cannot become"):
        cast(from_numpy("x", np.array([b"1"])), target)


def test_bf16_widens_and_no_type_narrows_to_bf16():
    tensor = Tensor("x", DataType.BF16, (1,), bytes.fromhex("803f"))
    assert to_numpy(cast(tensor, DataType.FP32)).tolist() == [1.0]
    assert to_numpy(cast(tensor, DataType.FP64)).tolist() == [1.0]
    assert cast(tensor, DataType.BF16) is tensor


@pytest.mark.parametrize("datatype", DataType, ids=lambda each: each.name)
def test_a_tensor_of_the_same_type_is_returned_unchanged(datatype):
    tensor = Tensor("x", datatype, (3,), b"too short")
    assert cast(tensor, datatype) is tensor


@pytest.mark.parametrize(
    ("source", "target", "value", "cause"),
    [
        (DataType.INT64, DataType.INT32, 2**31, "2147483648 does not fit"),
        (DataType.INT64, DataType.INT32, -(2**31) - 1, "-2147483649 does not fit"),
        (DataType.INT32, DataType.UINT32, -1, "-1 does not fit"),
        (DataType.UINT64, DataType.INT64, 2**63, "9223372036854775808 does not fit"),
        (DataType.INT16, DataType.INT8, 128, "128 does not fit"),
        (DataType.INT64, DataType.FP32, 16777217, "16777217 would become 16777216.0"),
        (DataType.INT64, DataType.FP32, -16777217, "-16777217 would become -16777216.0"),
        (DataType.INT64, DataType.FP64, 2**53 + 1, "9007199254740993 would become 900719925474"),
        (DataType.INT64, DataType.FP64, 2**63 - 1, "9223372036854775807 would become 9.22337203"),
        (DataType.UINT64, DataType.FP64, 2**64 - 1, "18446744073709551615 would become 1.844674"),
        (DataType.UINT32, DataType.FP32, 2**32 - 1, "4294967295 would become 429496"),
        (DataType.INT16, DataType.FP16, 2049, "2049 would become 2048.0"),
        (DataType.INT64, DataType.FP16, -(2**63), "-9223372036854775808 would become -inf"),
        (DataType.INT32, DataType.FP16, 10**6, "1000000 would become inf"),
        (DataType.FP64, DataType.FP32, 1e39, "1e+39 would become inf"),
        (DataType.FP64, DataType.FP32, -1e39, "-1e+39 would become -inf"),
        (DataType.FP32, DataType.FP16, 65520.0, "65520.0 would become inf"),
    ],
)
def test_the_error_about_a_changed_number_has_the_number_and_a_fix(source, target, value, cause):
    with pytest.raises(InvalidInput) as caught:
        cast(tensor_of(source, [0, value]), target)
    message = caught.value.message
    assert message.startswith(f"cannot convert tensor 'x' to {target.name}: {cause}")
    remedy = "give smaller numbers, or use a wider datatype"
    if source.dtype.kind in "iu" and target.dtype.kind == "f" and "inf" not in cause:
        remedy = "give floating-point numbers, which may be rounded"
    assert message.endswith(f"; {remedy}")


@pytest.mark.parametrize(
    ("source", "target", "values"),
    [
        (DataType.INT64, DataType.FP32, [2**24, -(2**24), 2**62, -(2**63), 2**24 + 2]),
        (DataType.INT64, DataType.FP64, [2**53, -(2**53), 2**62, -(2**63), 2**53 + 2]),
        (DataType.UINT64, DataType.FP32, [2**63, 2**64 - 2**40]),
        (DataType.INT32, DataType.FP16, [2048, 65504, -65504]),
    ],
)
def test_a_large_integer_that_fits_a_float_exactly_is_accepted(source, target, values):
    assert to_numpy(cast(tensor_of(source, values), target)).tolist() == values


def test_fractions_are_rounded_and_infinities_stay():
    values = [0.1, 1e-300, float("inf"), float("-inf"), 16777217.0]
    found = to_numpy(cast(tensor_of(DataType.FP64, values), DataType.FP32)).tolist()
    assert found == [float(np.float32(0.1)), 0.0, float("inf"), float("-inf"), 16777216.0]
    assert np.isnan(to_numpy(cast(tensor_of(DataType.FP64, [np.nan]), DataType.FP16)))


@settings(max_examples=examples(100))
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.sampled_from(INTEGERS),
    st.sampled_from([each for each in NUMBERS if each is not DataType.BOOL]),
    st.booleans(),
)
def test_integers_are_exact_or_refused(values, source, target, are_objects):
    limits = np.iinfo(source.dtype)
    values = [value for value in values if limits.min <= value <= limits.max]
    array = np.array(values, object if are_objects else source.dtype)
    try:
        found = narrowed("x", array, target)
    except InvalidInput:
        assert not all(is_held(value, target) for value in values)
    else:
        assert found.dtype == target.dtype
        assert found.tolist() == values


def is_held(value: int, datatype: DataType) -> bool:
    if datatype.dtype.kind in "iu":
        limits = np.iinfo(datatype.dtype)
        return int(limits.min) <= value <= int(limits.max)
    with np.errstate(over="ignore"):
        held = float(np.array(value, object).astype(datatype.dtype))
    return held == value


@settings(max_examples=examples(100))
@given(st.lists(st.floats()), st.sampled_from([DataType.FP16, DataType.FP32, DataType.FP64]))
def test_finite_numbers_stay_finite_or_are_refused(values, target):
    with np.errstate(over="ignore"):
        expected = np.array(values, "<f8").astype(target.dtype)
    overflows = (np.isinf(expected) & np.isfinite(np.array(values, "<f8"))).any()
    for array in (np.array(values, "<f8"), np.array(values, object)):
        if overflows:
            with pytest.raises(InvalidInput, match="would become"):
                narrowed("x", array, target)
        else:
            assert np.array_equal(narrowed("x", array, target), expected, equal_nan=True)


def test_object_arrays_keep_integers_round_fractions_and_convert_none_to_nan():
    found = narrowed("x", np.array([1, 0.1, None], object), DataType.FP32)
    assert found.tolist()[:2] == [1.0, float(np.float32(0.1))]
    assert np.isnan(found[2])
    for value in (16777217, 2**70 + 1, 10**400, -(10**400)):
        with pytest.raises(InvalidInput, match="cannot convert tensor 'x' to FP32: "):
            narrowed("x", np.array([0.5, value, None], object), DataType.FP32)


@settings(max_examples=examples(100))
@given(st.lists(st.floats(width=32)))
@example([1.00390625, 1.01171875, -1.00390625, 3.4028234663852886e38, 3.3895313892515355e38])
def test_bf16_is_the_nearest_and_ties_go_to_even(values):
    for value in values:
        try:
            (found,) = narrowed("x", np.array([value], "<f4"), DataType.BF16).tolist()
        except InvalidInput:
            assert abs(value) >= float.fromhex("0x1.ffp127")
            continue
        if np.isnan(value):
            assert np.isnan(found)
            continue
        bits = int(np.array(found, "<f4").view("<u4"))
        assert bits & 0xFFFF == 0
        if np.isinf(value):
            assert found == value
            continue
        neighbours = [
            float(np.array(each, "<u4").view("<f4"))
            for each in (bits - 0x10000, bits + 0x10000)
            if 0 <= each < 2**32
        ]
        for other in neighbours:
            if np.isfinite(other):
                assert abs(found - value) <= abs(other - value)
                if abs(found - value) == abs(other - value):
                    assert (bits >> 16) % 2 == 0


def test_an_integer_that_bf16_rounds_is_refused():
    assert narrowed("x", np.array([256, 2**31], "<i8"), DataType.BF16).tolist() == [256, 2**31]
    with pytest.raises(InvalidInput, match=r"257 would become 256\.0"):
        narrowed("x", np.array([257], "<i8"), DataType.BF16)


@settings(max_examples=examples(50))
@given(st.lists(st.integers(-(2**63), 2**64 - 1)), st.sampled_from(INTEGERS))
def test_narrowed_numbers_fit_or_are_refused(values, target):
    wide = np.array(values, dtype=object)
    try:
        found = narrowed("x", wide, target)
    except InvalidInput:
        limits = np.iinfo(target.dtype)
        assert not all(limits.min <= value <= limits.max for value in values)
    else:
        assert found.tolist() == values
