import tracemalloc
from math import prod

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.tensors import (
    Content,
    DataType,
    Signature,
    Tensor,
    TensorSpec,
    from_numpy,
    join_bytes_elements,
    to_numpy,
)
from skysail_frontend.core.lazy_tensors import PartTensor
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.core.validation import Inputs, validate_inputs
from skysail_testing.examples import examples
from unit.frontend.parts import DOUBLES, served, signature_of, texts

LABEL = "[request id: 7] "

# Models like those of the examples of Triton, from which the error texts below are.
simple = served(
    "simple:1",
    signature_of(
        TensorSpec("INPUT0", DataType.INT32, (-1, 16)),
        TensorSpec("INPUT1", DataType.INT32, (-1, 16)),
    ),
)
simple_string = served("simple_string:1", signature_of(texts("INPUT0")), max_batch_size=100)


def ints(name: str, *shape: int, datatype: DataType = DataType.INT32) -> Tensor:
    return Tensor(name, datatype, shape, bytes(4 * max(0, prod(shape))))


def strings(*elements: bytes) -> bytes:
    return join_bytes_elements(elements)


def refusal(version: ServedVersion, *tensors: Tensor) -> str:
    with pytest.raises(InvalidInput) as caught:
        validate_inputs(version, tensors, version.serving.max_batch_size, LABEL)
    return caught.value.message


good = (ints("INPUT0", 1, 16), ints("INPUT1", 1, 16))


@pytest.mark.parametrize(
    ("tensors", "beginning"),
    [
        (
            [*good, ints("BOGUS", 1, 16)],
            "unexpected inference input 'BOGUS' for model 'simple'",
        ),
        (
            good[:1],
            "[request id: 7] expected 2 inputs but got 1 inputs for model 'simple'. Got input(s) "
            "['INPUT0'], but missing required input(s) ['INPUT1']. Please provide all required "
            "input(s).",
        ),
        (
            [],
            "[request id: 7] expected 2 inputs but got 0 inputs for model 'simple'. Got input(s) "
            "[], but missing required input(s) ['INPUT0', 'INPUT1']. Please provide all required "
            "input(s).",
        ),
        (
            [*good, good[0]],
            "[request id: 7] input 'INPUT0' already exists in request",
        ),
        (
            [ints("INPUT0", 1, 16, datatype=DataType.FP32), good[1]],
            "[request id: 7] inference input 'INPUT0' data-type is 'FP32', but model 'simple' "
            "expects 'INT32'",
        ),
        (
            [good[0], ints("INPUT1", 1, 15)],
            "[request id: 7] unexpected shape for input 'INPUT1' for model 'simple'. Expected "
            "[-1,16], got [1,15]. NOTE: ",
        ),
        (
            [ints("INPUT0", 16), ints("INPUT1", 16)],
            "[request id: 7] unexpected shape for input 'INPUT0' for model 'simple'. Expected "
            "[-1,16], got [16].",
        ),
        (
            [ints("INPUT0", 9, 16), ints("INPUT1", 9, 16)],
            "[request id: 7] inference request batch-size must be <= 8 for 'simple'",
        ),
        (
            [ints("INPUT0", 1, 16), ints("INPUT1", 2, 16)],
            "[request id: 7] input 'INPUT1' batch size does not match other inputs for 'simple'",
        ),
        (
            [Tensor("INPUT0", DataType.INT32, (1, 16), bytes(60)), good[1]],
            "[request id: 7] input byte size mismatch for input 'INPUT0' for model 'simple'. "
            "Expected 64, got 60",
        ),
        (
            [Tensor("INPUT0", DataType.INT32, (1, 16), bytes(68)), good[1]],
            "[request id: 7] input byte size mismatch for input 'INPUT0' for model 'simple'. "
            "Expected 64, got 68",
        ),
    ],
)
def test_errors_of_inputs_have_the_texts_of_triton(tensors, beginning):
    assert refusal(simple, *tensors).startswith(beginning)


@pytest.mark.parametrize(
    ("num_elements", "data", "beginning"),
    [
        (
            16,
            strings(*[b"a"] * 15),
            "[request id: 7] expected 16 string elements for inference input 'INPUT0' for model "
            "'simple_string', got 15",
        ),
        (
            1,
            strings(b"a", b"b"),
            "[request id: 7] expected 1 string elements for inference input 'INPUT0' for model "
            "'simple_string', got more",
        ),
        (
            2,
            strings(b"a", b"bc")[:-1],
            "[request id: 7] incomplete string data for inference input 'INPUT0', expecting "
            "string of length 2 but only 1 bytes available",
        ),
        (
            2,
            strings(b"a") + b"\1\0",
            "[request id: 7] incomplete string length for inference input 'INPUT0', expecting",
        ),
        (
            1,
            b"",
            "[request id: 7] expected 1 string elements for inference input 'INPUT0' for model "
            "'simple_string', got 0",
        ),
    ],
)
def test_errors_of_string_data_have_the_texts_of_triton(num_elements, data, beginning):
    tensor = Tensor("INPUT0", DataType.BYTES, (num_elements,), data)
    assert refusal(simple_string, tensor).startswith(beginning)


def test_a_single_input_of_a_wrong_name_is_unexpected():
    tensor = Tensor("z", DataType.FP64, (1, 3), bytes(24))
    assert refusal(served(), tensor) == "unexpected inference input 'z' for model 'm'; it takes x"


ABSURD = [0, -1, -(2**62), 2**40 + 1, 99_999_999_999_999, 2**63 - 1]


@pytest.mark.parametrize("size", ABSURD)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("datatype", [DataType.FP64, DataType.BYTES])
def test_impossible_dimensions_are_a_shape_error(size, axis, datatype):
    version = served(signature=signature_of(TensorSpec("x", datatype, (-1, -1))))
    shape = (size, 1) if axis == 0 else (1, size)
    message = refusal(version, Tensor("x", datatype, shape, b""))
    assert message.startswith(
        f"[request id: 7] unexpected shape for input 'x' for model 'm'. Expected [-1,-1], "
        f"got [{shape[0]},{shape[1]}]"
    )


@pytest.mark.parametrize("datatype", [DataType.FP64, DataType.BYTES])
def test_huge_dimensions_are_refused_without_allocating(datatype):
    version = served(signature=signature_of(TensorSpec("x", datatype, (-1, -1, -1))))
    tracemalloc.start()
    try:
        message = refusal(version, Tensor("x", datatype, (8, 2**40, 2**40), b""))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(2**86 if datatype is DataType.FP64 else 2**83) in message
    assert peak < 1_000_000


@pytest.mark.parametrize("shape", [(), (1,), (1, 3, 1), (1,) * 10_000])
def test_another_number_of_dimensions_is_a_shape_error(shape):
    message = refusal(served(), Tensor("x", DataType.FP64, shape, bytes(8)))
    assert "unexpected shape for input 'x' for model 'm'. Expected [-1,3]" in message
    assert len(message) < 300


def test_inputs_are_returned_in_the_order_of_the_signature():
    first = Tensor("INPUT0", DataType.INT32, (2, 16), bytes(range(128)))
    second = Tensor("INPUT1", DataType.INT32, (2, 16), bytes(128))
    expected = Inputs((first.data, second.data), 2, ())
    assert validate_inputs(simple, [second, first], 8) == expected


@pytest.mark.parametrize("name", ["x", ""])
def test_a_single_input_may_have_no_name(name):
    tensor = Tensor(name, DataType.FP64, (1, 3), bytes(24))
    assert validate_inputs(served(), [tensor], 8) == Inputs((bytes(24),), 1, ())


def test_two_inputs_must_have_names():
    tensors = [Tensor("", each.datatype, each.shape, each.data) for each in good]
    assert refusal(simple, *tensors) == (
        "model 'simple' takes inputs by name: give a dictionary with INPUT0, INPUT1"
    )


@settings(max_examples=examples(50))
@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=3),
    st.integers(1, 8),
)
def test_variable_sizes_are_returned_in_the_order_of_the_signature(sizes, rows):
    a, b, c = sizes
    signature = Signature(
        (
            TensorSpec("p", DataType.INT8, (-1, -1, 2, -1)),
            TensorSpec("q", DataType.FP16, (-1, 3)),
            TensorSpec("r", DataType.BYTES, (-1, -1)),
        ),
        DOUBLES.outputs,
    )
    tensors = [
        Tensor("r", DataType.BYTES, (rows, c), strings(*[b"text"] * (rows * c))),
        Tensor("p", DataType.INT8, (rows, a, 2, b), bytes(rows * a * 2 * b)),
        Tensor("q", DataType.FP16, (rows, 3), bytes(rows * 6)),
    ]
    inputs = validate_inputs(served(signature=signature), tensors, 8)
    assert inputs.rows == rows
    assert inputs.variable_dims == (a, b, c)
    assert inputs.data == (tensors[1].data, tensors[2].data, tensors[0].data)


dimensions = st.integers(-3, 5) | st.sampled_from(ABSURD)


@settings(max_examples=examples(50))
@given(
    st.lists(
        st.builds(
            Tensor,
            st.sampled_from(["INPUT0", "INPUT1", "", "é"]),
            st.sampled_from(DataType),
            st.lists(dimensions, max_size=4).map(tuple),
            st.binary(max_size=80),
        ),
        max_size=3,
    ),
    st.sampled_from([simple, simple_string, served()]),
)
def test_any_inputs_are_accepted_or_invalid(tensors, version):
    try:
        inputs = validate_inputs(version, tensors, version.serving.max_batch_size)
    except InvalidInput:
        return
    assert 1 <= inputs.rows <= version.serving.max_batch_size
    assert len(inputs.data) == len(version.signature.inputs)


# Conversion.

doubles_and_bytes = served(
    signature=Signature((TensorSpec("x", DataType.FP64, (-1, 3)), texts("t")), DOUBLES.outputs)
)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.array([[1, 2, 3]], "<i8"), DataType.FP64),
        (np.array([[1, 2, 3]], "u1"), DataType.FP32),
        (np.array([[1.5, 2, 3]], "<f4"), DataType.FP64),
        (np.array([[1.5, 2, 3]], "<f8"), DataType.FP16),
        (np.array([[1, 2, 3]], "<i8"), DataType.INT8),
        (np.array([[1, 2, 3]], "<i8"), DataType.UINT16),
        (np.array([[True, False, True]]), DataType.INT32),
    ],
)
@pytest.mark.parametrize("name", ["x", ""])
def test_numbers_are_converted_to_the_datatype_of_the_signature(source, target, name):
    version = served(signature=signature_of(TensorSpec("x", target, (-1, 3))))
    inputs = validate_inputs(version, [from_numpy(name, source)], 8, widens=True)
    (data,) = inputs.data
    assert to_numpy(Tensor("x", target, (1, 3), data)).tolist() == source.tolist()
    assert inputs.rows == 1
    with pytest.raises(InvalidInput, match="data-type is"):
        validate_inputs(version, [from_numpy(name, source)], 8)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (np.array([[1.5, 2, 3]]), DataType.INT64, "cannot become INT64; give .*"),
        (np.array([[300, 2, 3]]), DataType.UINT8, "to UINT8: 300 does not fit; give .*"),
        (np.array([[-1, 2, 3]]), DataType.UINT64, "to UINT64: -1 does not fit; give .*"),
        (np.array([["1", "2", "3"]]), DataType.FP64, "cannot become FP64; give .*"),
        (np.array([[1, 2, 3]]), DataType.BYTES, "cannot become BYTES; give .*"),
        (np.array([[1.0, 2, 3]]), DataType.BF16, "cannot become BF16; give .*"),
        (np.array([[2, 1, 0]]), DataType.BOOL, "cannot become BOOL; give .*"),
    ],
)
def test_lossy_conversions_are_refused(source, target, words):
    version = served(signature=signature_of(TensorSpec("x", target, (-1, 3))))
    for name in ("x", ""):
        with pytest.raises(InvalidInput, match=f"tensor 'x' .*{words}$"):
            validate_inputs(version, [from_numpy(name, source)], 8, widens=True)


WHEN = TensorSpec("when", DataType.INT64, (-1,), Content.DATETIME)


def test_texts_are_no_durations():
    spec = TensorSpec("when", DataType.INT64, (-1,), Content.DURATION)
    version = served(signature=signature_of(spec))
    with pytest.raises(InvalidInput, match="input 'when' takes durations, got texts; give "):
        validate_inputs(version, [from_numpy("when", np.array(["now"]))], 8, widens=True)


@pytest.mark.parametrize("name", ["when", ""])
def test_texts_in_iso_8601_become_times(name):
    version = served(signature=signature_of(WHEN))
    given = from_numpy(name, np.array(["1970-01-02", "1970-01-01T01:00:00+01:00"]))
    found = validate_inputs(version, [given], 8, widens=True)
    assert np.frombuffer(found.data[0], "<i8").tolist() == [86_400 * 10**9, 0]
    with pytest.raises(InvalidInput, match="data-type is 'BYTES'"):
        validate_inputs(version, [given], 8)


def test_masked_texts_are_missing_times():
    version = served(signature=signature_of(WHEN))
    mask = from_numpy("when.is_null", np.array([True, False]))
    texts_of_times = from_numpy("when", np.array(["", "1970-01-02"]))
    found = validate_inputs(version, [texts_of_times, mask], 8, widens=True)
    assert np.frombuffer(found.data[0], "<M8[ns]").astype(str).tolist() == [
        "NaT",
        "1970-01-02T00:00:00.000000000",
    ]


@pytest.mark.parametrize("with_mask", [False, True])
def test_other_texts_and_too_many_times_are_refused(with_mask):
    version = served(signature=signature_of(WHEN))

    def tensors(*values: str) -> list[Tensor]:
        mask = from_numpy("when.is_null", np.zeros(len(values), bool))
        return [from_numpy("when", np.array(values)), *([mask] if with_mask else [])]

    with pytest.raises(InvalidInput, match=r"'when' takes a time in ISO 8601, .* got 'now'"):
        validate_inputs(version, tensors("now"), 8, widens=True)
    with pytest.raises(InvalidInput, match="more than 1024 times as texts; give times of Python"):
        validate_inputs(version, tensors(*["1970-01-02"] * 1025), 2000, widens=True)


def test_errors_are_the_same_with_and_without_conversion():
    unknown = Tensor("z", DataType.INT8, (1,), b"\1")
    with pytest.raises(InvalidInput, match="unexpected inference input 'z'"):
        validate_inputs(served(), [unknown], 8, widens=True)
    unnamed = Tensor("", DataType.INT8, (1,), b"\1")
    with pytest.raises(InvalidInput, match="takes inputs by name"):
        validate_inputs(doubles_and_bytes, [unnamed], 8, widens=True)


def test_data_that_do_not_fill_their_shape_are_refused_before_conversion():
    tensor = Tensor("x", DataType.INT8, (1, 3), b"\1")
    with pytest.raises(InvalidInput, match="Expected 3, got 1"):
        validate_inputs(served(), [tensor], 8, widens=True)


@pytest.mark.parametrize(
    "shape", [(2**62, 1), (-1, 1), (-1, -1), (-2, -3), (0, 1), (2**62, 2**62), (1,) * 100]
)
def test_impossible_shapes_are_refused_before_conversion(shape):
    version = served(signature=signature_of(TensorSpec("x", DataType.FP64, (-1, -1))))
    data = bytes(max(0, min(100, prod(shape))))
    with pytest.raises(InvalidInput):
        validate_inputs(version, [Tensor("x", DataType.INT8, shape, data)], 8, widens=True)


@settings(max_examples=examples(50))
@given(
    st.sampled_from(DataType),
    st.lists(dimensions, max_size=3).map(tuple),
    st.binary(max_size=24),
    st.sampled_from(DataType),
    st.sampled_from([(-1,), (-1, 3), (-1, -1)]),
)
@example(DataType.BOOL, (0, 2**63 - 1), b"", DataType.UINT16, (-1,))
def test_any_conversion_gives_the_datatype_or_is_refused(source, shape, data, target, takes):
    version = served(signature=signature_of(TensorSpec("x", target, takes)))
    try:
        inputs = validate_inputs(version, [Tensor("x", source, shape, data)], 8, widens=True)
    except InvalidInput:
        return
    assert to_numpy(Tensor("x", target, shape, *inputs.data)).shape == shape


@pytest.mark.parametrize(("rest", "is_copied"), [(24, False), (25, True)])
def test_a_small_view_does_not_keep_a_large_message(rest, is_copied):
    message = bytes(24 + rest)
    part = PartTensor("x", DataType.FP64, (1, 3), memoryview(message)[:24])
    (data,) = validate_inputs(served(), [part], 8).data
    assert data == bytes(24)
    assert isinstance(data, bytes) == is_copied


def test_the_number_of_converted_elements_is_bounded():
    spec = TensorSpec("x", DataType.FP64, (-1, -1))
    version = served("m:1", signature_of(spec))
    for count, is_widened in ((2 * 1024 * 1024, True), (2 * 1024 * 1024 + 1, False)):
        tensor = Tensor("x", DataType.INT8, (1, count), bytes(count))
        if is_widened:
            (data,) = validate_inputs(version, [tensor], 8, widens=True).data
            assert len(data) == 8 * count
        else:
            with pytest.raises(InvalidInput) as caught:
                validate_inputs(version, [tensor], 8, widens=True)
            assert caught.value.message == (
                "cannot convert tensor 'x': it has 2097153 elements of INT8, at most 2097152 are "
                "converted; send FP64"
            )
