from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skysail_common.clock import NEVER
from skysail_common.errors import (
    InvalidInput,
    ModelFailed,
    SkysailError,
)
from skysail_common.tensors import DataType, Signature, TensorSpec, join_bytes_elements
from skysail_frontend.core.batch import Batch, QueryError, QueryOutputs
from skysail_frontend.core.query import Query
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.upstream.batch_messages import decode_result, encode_batch
from skysail_protos.v1 import model_server_pb2 as pb
from skysail_testing.examples import examples
from unit.frontend.parts import DOUBLES, Frontend, served

specs = st.builds(
    lambda datatype, dims: (datatype, (-1, *dims)),
    st.sampled_from(DataType),
    st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=3),
)


@st.composite
def signatures(draw) -> Signature:
    inputs = draw(st.lists(specs, min_size=1, max_size=3))
    outputs = draw(st.lists(specs, min_size=1, max_size=3))
    return Signature(
        tuple(TensorSpec(f"x{index}", *spec) for index, spec in enumerate(inputs)),
        tuple(TensorSpec(f"y{index}", *spec) for index, spec in enumerate(outputs)),
    )


def shape_of(draw, spec: TensorSpec, rows: int, least: int) -> tuple[int, ...]:
    sizes = (draw(st.integers(least, 3)) if size == -1 else size for size in spec.shape[1:])
    return (rows, *sizes)


def data_of(draw, spec: TensorSpec, shape: tuple[int, ...]) -> bytes:
    count = 1
    for size in shape:
        count *= size
    if spec.datatype is DataType.BYTES:
        return join_bytes_elements(draw(st.binary(max_size=3)) for _ in range(count))
    size = count * spec.datatype.element_bytes
    # Consecutive bytes show their origin; drawing each byte would be slow.
    start = draw(st.integers(0, 255))
    return bytes((start + index) % 256 for index in range(size))


def tensors_of(draw, each_spec, rows: int, least: int):
    shapes = [shape_of(draw, spec, rows, least) for spec in each_spec]
    parts = [data_of(draw, spec, shape) for spec, shape in zip(each_spec, shapes, strict=True)]
    return parts, shapes


def variable_dims(each_spec, shapes) -> list[int]:
    return [
        shape[axis]
        for spec, shape in zip(each_spec, shapes, strict=True)
        for axis in spec.variable_axes
    ]


@st.composite
def batches(draw) -> tuple[ServedVersion, Batch]:
    version = served(signature=draw(signatures()), max_batch_size=100)
    queries = []
    for _ in range(draw(st.integers(1, 4))):
        rows = draw(st.integers(1, 3))
        parts, shapes = tensors_of(draw, version.signature.inputs, rows, 1)
        dims = variable_dims(version.signature.inputs, shapes)
        queries.append(Query("", None, version, parts, rows, dims, 1000.0, 1001.0, lambda *_: None))
    return version, Batch(draw(st.integers(1, 2**64 - 1)), queries, 1000.5)


@st.composite
def results(
    draw, least: int = 0, may_fail: bool = True
) -> tuple[ServedVersion, Batch, list[object], pb.BatchResult]:
    """Draw a batch, the expected answers of its queries, and the result of a model server."""
    version, batch = draw(batches())
    outputs = version.signature.outputs
    result = pb.BatchResult(id=batch.batch_id, compute_us=1, wait_us=2)
    joined = [b""] * len(outputs)
    expected: list[object] = []
    for index, query in enumerate(batch.queries):
        if may_fail and draw(st.booleans()):
            code = draw(st.sampled_from([ModelFailed.status, InvalidInput.status]))
            result.errors.add(index=index, code=code, message=f"error {index}")
            expected.append((code, f"error {index}"))
            continue
        parts, shapes = tensors_of(draw, outputs, query.rows, least)
        for output, (spec, shape, part) in enumerate(zip(outputs, shapes, parts, strict=True)):
            joined[output] += part
            result.variable_dims.extend(shape[axis] for axis in spec.variable_axes)
            if spec.datatype is DataType.BYTES:
                result.bytes_sizes.append(len(part))
        expected.append((parts, shapes))
    # If every query failed, a model server may send empty outputs or none.
    if any(isinstance(each[0], list) for each in expected) or draw(st.booleans()):
        result.outputs.extend(joined)
    return version, batch, expected, result


def decoded(version: ServedVersion, batch: Batch, result: pb.BatchResult) -> list[object]:
    frontend = Frontend(version)
    result = pb.BatchResult.FromString(result.SerializeToString())
    answers = decode_result(frontend.version(str(version.name)), batch, result)
    return [
        (answer.error.status, answer.error.message)
        if isinstance(answer, QueryError)
        else (list(answer.data), list(answer.shapes))
        for answer in answers
    ]


@settings(max_examples=examples(40))
@given(batches())
def test_an_encoded_batch_has_the_joined_inputs_of_its_queries(version_and_batch):
    version, batch = version_and_batch
    message = pb.Batch.FromString(encode_batch(batch))
    assert message.id == batch.batch_id
    assert list(message.rows) == [query.rows for query in batch.queries]
    dims = iter(message.variable_dims)
    for query in batch.queries:
        assert [next(dims) for _ in query.variable_dims] == list(query.variable_dims)
    assert next(dims, None) is None
    for index in range(len(version.signature.inputs)):
        parts = [query.inputs[index] for query in batch.queries]
        ends = pairwise([0, *accumulate(map(len, parts))])
        assert [message.inputs[index][begin:end] for begin, end in ends] == parts
        assert len(message.inputs[index]) == sum(map(len, parts))


@pytest.mark.parametrize(
    ("expected_s", "expected_us"), [(0.0, 0), (0.25, 250_000), (1e9, 2**32 - 1)]
)
def test_an_encoded_batch_has_its_expected_latency(expected_s, expected_us):
    query = Query("", None, served(), (b"",), 1, (), 1000.0, NEVER, lambda *_: None)
    batch = Batch(1, [query], 1000.5)
    batch.expected_s = expected_s
    assert pb.Batch.FromString(encode_batch(batch)).expected_us == expected_us


@settings(max_examples=examples(40))
@given(results())
def test_each_query_gets_its_own_outputs_or_its_own_error(case):
    version, batch, expected, result = case
    assert decoded(version, batch, result) == expected


MISFIT = (ModelFailed.status, "model 'm:1' sent a result that does not fit its signature")


def _one_output_less(result: pb.BatchResult) -> None:
    del result.outputs[-1]


def _one_output_more(result: pb.BatchResult) -> None:
    result.outputs.append(b"")


def _one_byte_less(result: pb.BatchResult) -> None:
    result.outputs[0] = result.outputs[0][:-1]


def _one_byte_more(result: pb.BatchResult) -> None:
    result.outputs[-1] += b"\0"


def _one_dimension_less(result: pb.BatchResult) -> None:
    del result.variable_dims[-1]


def _one_dimension_more(result: pb.BatchResult) -> None:
    result.variable_dims.append(1)


def _a_negative_dimension(result: pb.BatchResult) -> None:
    result.variable_dims[0] = -1


def _a_huge_dimension(result: pb.BatchResult) -> None:
    result.variable_dims[-1] = 2**63 - 1


def _one_text_size_less(result: pb.BatchResult) -> None:
    del result.bytes_sizes[-1]


def _one_text_size_more(result: pb.BatchResult) -> None:
    result.bytes_sizes.append(0)


def _a_huge_text_size(result: pb.BatchResult) -> None:
    result.bytes_sizes[0] = 2**64 - 1


@settings(max_examples=examples(15))
@given(case=results(least=1, may_fail=False))
@pytest.mark.parametrize(
    "spoil",
    [
        _one_output_less,
        _one_output_more,
        _one_byte_less,
        _one_byte_more,
        _one_dimension_less,
        _one_dimension_more,
        _a_negative_dimension,
        _a_huge_dimension,
        _one_text_size_less,
        _one_text_size_more,
        _a_huge_text_size,
    ],
)
def test_a_result_that_does_not_fit_fails_every_query(case, spoil):
    version, batch, _, result = case
    # The frontend does not count the texts of outputs, because that would take time for each.
    has_texts = any(spec.datatype is DataType.BYTES for spec in version.signature.outputs)
    assume(not (spoil is _a_huge_dimension and has_texts))
    before = result.SerializeToString()
    try:
        spoil(result)
    except IndexError:
        return
    assume(result.SerializeToString() != before)
    assert decoded(version, batch, result) == [MISFIT] * len(batch.queries)


def test_a_result_that_does_not_fit_overrides_the_errors_of_queries():
    frontend = Frontend(served())
    queries = [frontend.query(), frontend.query()]
    result = pb.BatchResult(id=1, outputs=[bytes(48)])
    result.errors.add(index=1, code=InvalidInput.status, message="too long")
    assert decoded(served(), Batch(1, queries, 0.0), result) == [MISFIT, MISFIT]


def test_negative_dimensions_with_a_fitting_sum_are_rejected():
    signature = Signature(DOUBLES.inputs, (TensorSpec("y", DataType.INT8, (-1, -1)),))
    frontend = Frontend(served(signature=signature))
    queries = [frontend.query(), frontend.query()]
    result = pb.BatchResult(id=1, outputs=[bytes(8)], variable_dims=[-4, 12])
    assert decoded(served(signature=signature), Batch(1, queries, 0.0), result) == [MISFIT] * 2


@settings(max_examples=examples(40))
@given(
    batches(),
    st.builds(
        pb.BatchResult,
        outputs=st.lists(st.binary(max_size=20), max_size=3),
        variable_dims=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 3), max_size=6),
        bytes_sizes=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=6),
        errors=st.lists(
            st.builds(
                pb.BatchError,
                index=st.integers(0, 2**32 - 1) | st.integers(0, 3),
                code=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 20),
            ),
            max_size=4,
        ),
    ),
)
def test_each_query_gets_one_answer_from_any_result(version_and_batch, result):
    version, batch = version_and_batch
    frontend = Frontend(version)
    answers = decode_result(frontend.version(str(version.name)), batch, result)
    assert len(answers) == len(batch.queries)
    for answer, query in zip(answers, batch.queries, strict=True):
        if isinstance(answer, QueryOutputs):
            assert len(answer.data) == len(answer.shapes) == len(version.signature.outputs)
            assert all(shape[0] == query.rows for shape in answer.shapes)
        else:
            assert isinstance(answer.error, SkysailError)


def test_a_failure_of_the_model_differs_from_an_internal_error():
    frontend = Frontend(served())
    result = pb.BatchResult(id=1)
    result.errors.add(index=0, code=ModelFailed.status, message="ValueError: no")
    batch = Batch(1, [frontend.query()], 0.0)
    (answer,) = decode_result(frontend.version(), batch, result)
    assert type(answer.error) is ModelFailed


def test_a_batch_accepts_views_of_messages():
    message = b"0123456789abcdef"
    views = [memoryview(message)[begin : begin + 8] for begin in (0, 8)]
    queries = [
        Query("", None, served(), (view,), 1, (), 0.0, NEVER, lambda *_: None) for view in views
    ]
    for count, joined in ((1, message[:8]), (2, message)):
        batch = Batch(1, queries[:count], 0.0)
        assert list(pb.Batch.FromString(encode_batch(batch)).inputs) == [joined]
