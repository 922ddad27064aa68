import asyncio
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skysail_common.clock import NEVER
from skysail_common.errors import (
    FailedPrecondition,
    InvalidInput,
    ModelFailed,
    SkysailError,
    Unavailable,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.contract import LinkObserver, Metadata
from skysail_common.tensors import DataType, Signature, TensorSpec, join_bytes_elements
from skysail_frontend.core.query import Outcome, Query
from skysail_frontend.core.routes import ReplicaEndpoint, ServedVersion
from skysail_frontend.core.version_dispatcher import Batch, QueryError, QueryOutputs
from skysail_frontend.upstream import replica_link as replicas
from skysail_frontend.upstream.replica_link import Replica
from skysail_protos.v1 import model_server_pb2 as pb
from unit.frontend.parts import DOUBLES, Frontend, TurningLoop, served, turns

# What a batch becomes on the wire, and what comes back.

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
    # Bytes that tell where they are from; drawing each would be slow.
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
    """A batch, what each of its queries is to get, and the result that a model server builds."""
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
    # Where nothing succeeded, a model server may send empty outputs or none.
    if any(isinstance(each[0], list) for each in expected) or draw(st.booleans()):
        result.outputs.extend(joined)
    return version, batch, expected, result


def decoded(version: ServedVersion, batch: Batch, result: pb.BatchResult) -> list[object]:
    frontend = Frontend(version)
    result = pb.BatchResult.FromString(result.SerializeToString())
    answers = replicas._decode(frontend.version(str(version.name)), batch, result)
    return [
        (answer.error.status, answer.error.message)
        if isinstance(answer, QueryError)
        else (list(answer.data), list(answer.shapes))
        for answer in answers
    ]


@settings(max_examples=40)
@given(batches())
def test_a_batch_on_the_wire_holds_the_joined_inputs_of_its_queries(version_and_batch):
    version, batch = version_and_batch
    message = pb.Batch.FromString(replicas._encode(batch))
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
def test_a_batch_says_how_long_it_is_expected_to_compute(expected_s, expected_us):
    query = Query("", None, served(), (b"",), 1, (), 1000.0, NEVER, lambda *_: None)
    batch = Batch(1, [query], 1000.5)
    batch.expected_s = expected_s
    assert pb.Batch.FromString(replicas._encode(batch)).expected_us == expected_us


@settings(max_examples=40)
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


@settings(max_examples=15)
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
    # How many texts the frontend passes on is not counted, because that costs time a text.
    has_texts = any(spec.datatype is DataType.BYTES for spec in version.signature.outputs)
    assume(not (spoil is _a_huge_dimension and has_texts))
    before = result.SerializeToString()
    try:
        spoil(result)
    except IndexError:
        return
    assume(result.SerializeToString() != before)
    assert decoded(version, batch, result) == [MISFIT] * len(batch.queries)


def test_a_failed_query_has_no_part_in_a_result_that_does_not_fit():
    frontend = Frontend(served())
    queries = [frontend.query(), frontend.query()]
    result = pb.BatchResult(id=1, outputs=[bytes(48)])
    result.errors.add(index=1, code=InvalidInput.status, message="too long")
    assert decoded(served(), Batch(1, queries, 0.0), result) == [MISFIT, MISFIT]


def test_negative_dimensions_that_add_up_are_noticed():
    signature = Signature(DOUBLES.inputs, (TensorSpec("y", DataType.INT8, (-1, -1)),))
    frontend = Frontend(served(signature=signature))
    queries = [frontend.query(), frontend.query()]
    result = pb.BatchResult(id=1, outputs=[bytes(8)], variable_dims=[-4, 12])
    assert decoded(served(signature=signature), Batch(1, queries, 0.0), result) == [MISFIT] * 2


@settings(max_examples=40)
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
def test_whatever_a_replica_sends_each_query_has_one_answer(version_and_batch, result):
    version, batch = version_and_batch
    frontend = Frontend(version)
    answers = replicas._decode(frontend.version(str(version.name)), batch, result)
    assert len(answers) == len(batch.queries)
    for answer, query in zip(answers, batch.queries, strict=True):
        if isinstance(answer, QueryOutputs):
            assert len(answer.data) == len(answer.shapes) == len(version.signature.outputs)
            assert all(shape[0] == query.rows for shape in answer.shapes)
        else:
            assert isinstance(answer.error, SkysailError)


def test_a_query_that_the_model_failed_is_told_from_a_mistake_of_ours():
    frontend = Frontend(served())
    result = pb.BatchResult(id=1)
    result.errors.add(index=0, code=ModelFailed.status, message="ValueError: no")
    batch = Batch(1, [frontend.query()], 0.0)
    (answer,) = replicas._decode(frontend.version(), batch, result)
    assert type(answer.error) is ModelFailed


# The link.


class FakeLink:
    def __init__(self, observer: LinkObserver) -> None:
        self.observer = observer
        self.sent: list[pb.Batch] = []
        self.is_closed = False

    def send(self, message: bytes) -> None:
        assert not self.is_closed
        self.sent.append(pb.Batch.FromString(message))

    def close(self) -> None:
        self.is_closed = True

    def answer(self, batch: pb.Batch | None = None, compute_us: int = 100) -> None:
        """Answer a batch, by default the newest, with its inputs."""
        batch = batch or self.sent[-1]
        result = pb.BatchResult(id=batch.id, outputs=batch.inputs, compute_us=compute_us)
        self.observer.link_received(result.SerializeToString())


class FakeConnector:
    """Opens links to replicas that can be away."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.calls: list[tuple[str, str]] = []
        self.metadata: list[Metadata] = []
        self.error: Exception | None = None
        self.is_away = False

    async def __call__(
        self, endpoint: str, path: str, observer: LinkObserver, metadata: Metadata = ()
    ) -> FakeLink:
        self.calls.append((endpoint, path))
        self.metadata.append(metadata)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if self.is_away:
            raise Unavailable(f"{endpoint} is away")
        self.links.append(FakeLink(observer))
        return self.links[-1]

    @property
    def link(self) -> FakeLink:
        return self.links[-1]


class Linked:
    """A frontend with one real replica on a fake connector."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("_FIRST_RETRY_S", "_MAX_RETRY_S"):
            monkeypatch.setattr(replicas, name, 0.0)
        self.connector = FakeConnector()
        self.frontend = Frontend(served(), loop=TurningLoop, with_replicas=False)
        endpoint = ReplicaEndpoint("c1", "unix:/r")
        self.version = self.frontend.version()
        self.replica = Replica(endpoint, self.version, self.frontend.dispatcher, self.connector)
        self.version.replicas.append(self.replica)
        self.running = asyncio.create_task(self.replica.run())

    @property
    def link(self) -> FakeLink:
        return self.connector.link

    def outcome(self, query: Query) -> Outcome:
        return self.frontend.settled[query].outcome


@pytest.fixture
async def linked(monkeypatch):
    linked = Linked(monkeypatch)
    await turns()
    yield linked
    linked.running.cancel()
    await asyncio.gather(linked.running, return_exceptions=True)


async def test_a_replica_is_ready_once_its_link_is_open(monkeypatch):
    linked = Linked(monkeypatch)
    linked.connector.is_away = True
    query = linked.frontend.submit()
    await turns()
    assert not linked.replica.is_ready
    assert not linked.frontend.dispatcher.is_ready(ModelVersion("m", "1"))
    linked.connector.is_away = False
    await turns()
    assert linked.replica.is_ready
    assert set(linked.connector.calls) == {("unix:/r", "/skysail.v1.ModelServer/PredictBatches")}
    # What waited is sent without anything else happening.
    linked.link.answer()
    assert linked.outcome(query) is Outcome.OK
    linked.running.cancel()


async def test_what_could_not_be_sent_is_sent_again(linked):
    send, failures = linked.link.send, [RuntimeError("no"), MemoryError()]

    def failing_at_first(message):
        if failures:
            raise failures.pop()
        send(message)

    linked.link.send = failing_at_first
    queries = [linked.frontend.submit() for _ in range(2)]
    await turns()
    while linked.replica.num_in_flight:
        linked.link.answer()
        await turns()
    assert [linked.outcome(query) for query in queries] == [Outcome.OK] * 2


async def test_a_query_that_cannot_be_sent_fails_without_those_sent_with_it(
    linked, monkeypatch, caplog
):
    bad, *others = queries = [linked.frontend.query(within_s=10.0) for _ in range(3)]
    encode = replicas._encode

    def encode_others(batch):
        if bad in batch.queries:
            raise ValueError("too large")
        return encode(batch)

    monkeypatch.setattr(replicas, "_encode", encode_others)
    for query in queries:
        linked.frontend.dispatcher.submit(query)
    await turns()
    assert isinstance(linked.frontend.settled[bad].error, ModelFailed)
    assert "batch not sent" in caplog.text
    while linked.replica.num_in_flight:
        linked.link.answer()
        await turns()
    assert [linked.outcome(query) for query in others] == [Outcome.OK] * 2
    assert linked.frontend.dispatcher.num_unsettled == 0


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (FailedPrecondition("this is a replica of n:1"), "WARNING"),
        (RuntimeError("a bug"), "ERROR"),
    ],
)
async def test_an_endpoint_that_cannot_be_used_is_tried_again(monkeypatch, caplog, error, level):
    linked = Linked(monkeypatch)
    linked.connector.error = error
    query = linked.frontend.submit()
    await turns(30)
    assert not linked.replica.is_ready
    assert query.is_queued
    records = [record for record in caplog.records if record.levelname == level]
    assert str(error) in str(records[0].__dict__)
    if level == "WARNING":
        assert len(records) == 1
    linked.connector.error = None
    await turns()
    assert linked.replica.is_ready
    linked.link.answer()
    assert linked.outcome(query) is Outcome.OK
    linked.running.cancel()


@pytest.mark.parametrize("failing", [["mark"], ["mark", "batches_lost"]])
async def test_an_error_behind_an_open_link_closes_it_and_opens_another(monkeypatch, failing):
    linked = Linked(monkeypatch)
    dispatcher = linked.frontend.dispatcher

    def fail_once(name):
        original = getattr(dispatcher, name)

        def fail(*arguments):
            monkeypatch.setattr(dispatcher, name, original)
            raise RuntimeError("a bug")

        monkeypatch.setattr(dispatcher, name, fail)

    for name in failing:
        fail_once(name)
    await turns(30)
    first, second = linked.connector.links
    assert first.is_closed
    assert not second.is_closed
    assert linked.replica.is_ready
    linked.running.cancel()


async def test_batches_are_answered_in_any_order(linked):
    linked.frontend.apply(served(max_batch_size=1))
    first = linked.frontend.submit()
    await turns()
    second = linked.frontend.submit()
    await turns()
    assert linked.replica.num_in_flight == 2
    linked.link.answer(linked.link.sent[1])
    assert second in linked.frontend.settled
    assert first not in linked.frontend.settled
    linked.link.answer(linked.link.sent[0])
    assert linked.outcome(first) is Outcome.OK
    assert linked.frontend.settled[first].compute_s == pytest.approx(100e-6)
    assert linked.replica.num_in_flight == 0


async def test_a_malformed_result_fails_its_batch_only(linked):
    linked.frontend.apply(served(max_batch_size=1))
    first = linked.frontend.submit()
    await turns()
    second = linked.frontend.submit()
    await turns()
    batch = linked.link.sent[0]
    linked.replica.link_received(pb.BatchResult(id=batch.id).SerializeToString())
    assert linked.outcome(first) is Outcome.DEFAULT_MODEL_ERROR
    assert type(linked.frontend.settled[first].error) is ModelFailed
    assert linked.replica.num_in_flight == 1
    linked.link.answer()
    assert linked.outcome(second) is Outcome.OK


async def test_an_answer_to_an_unknown_batch_changes_nothing(linked):
    query = linked.frontend.submit()
    await turns()
    linked.replica.link_received(pb.BatchResult(id=999).SerializeToString())
    linked.link.answer()
    assert linked.outcome(query) is Outcome.OK
    linked.link.answer()
    assert linked.replica.num_in_flight == 0


async def test_garbage_ends_the_link_and_its_batches_go_to_the_next(linked):
    query = linked.frontend.submit()
    await turns()
    broken = linked.link
    linked.replica.link_received(b"\xff\xff")
    assert broken.is_closed
    assert linked.replica.num_in_flight == 0
    await turns()
    assert linked.link is not broken
    linked.link.answer()
    assert linked.outcome(query) is Outcome.OK


async def test_a_closed_link_puts_its_queries_back_and_is_opened_again(linked):
    queries = [linked.frontend.submit() for _ in range(3)]
    await turns()
    old = linked.link
    linked.replica.link_closed("reset by peer", has_died=True)
    assert not linked.replica.is_ready
    assert linked.replica.num_in_flight == 0
    assert all(query.is_queued for query in queries)
    assert [query.attempts for query in queries] == [1, 1, 1]
    await turns()
    assert linked.link is not old
    assert list(linked.link.sent[0].rows) == [1, 1, 1]
    linked.link.answer()
    assert all(linked.outcome(query) is Outcome.OK for query in queries)


async def test_a_link_closed_in_good_order_counts_no_attempt(linked):
    query = linked.frontend.submit()
    await turns()
    linked.replica.link_closed("draining", has_died=False)
    assert query.is_queued
    assert query.attempts == 0


async def test_a_link_that_ends_as_it_opens_is_opened_again(monkeypatch):
    linked = Linked(monkeypatch)
    real = FakeConnector.__call__
    has_failed = False

    async def connect(self, endpoint, path, observer, metadata):
        nonlocal has_failed
        link = await real(self, endpoint, path, observer, metadata)
        if not has_failed:
            has_failed = True
            # Before whoever waits for the link is told that it is open.
            observer.link_closed("reset by peer", has_died=True)
        return link

    monkeypatch.setattr(FakeConnector, "__call__", connect)
    await turns(30)
    assert len(linked.connector.links) == 2
    assert linked.replica.is_ready
    linked.running.cancel()


async def test_a_retired_replica_answers_what_it_has_and_ends(linked):
    query = linked.frontend.submit()
    await turns()
    linked.replica.retire()
    assert not linked.replica.is_ready
    assert not linked.link.is_closed
    late = linked.frontend.submit()
    await turns()
    assert len(linked.link.sent) == 1
    linked.link.answer()
    assert linked.outcome(query) is Outcome.OK
    assert late.is_queued
    assert linked.link.is_closed
    await turns()
    assert linked.running.done()
    assert linked.running.exception() is None


async def test_an_idle_replica_ends_at_once_when_it_is_retired(linked):
    linked.replica.retire()
    linked.replica.retire()
    assert linked.link.is_closed
    await turns()
    assert linked.running.done()


async def test_a_retired_replica_that_is_lost_ends_and_its_queries_wait_for_another(linked):
    query = linked.frontend.submit()
    await turns()
    linked.replica.retire()
    linked.replica.link_closed("reset by peer", has_died=True)
    await turns()
    assert linked.running.done()
    assert query.is_queued
    assert len(linked.connector.links) == 1


@pytest.mark.parametrize("is_away", [True, False])
async def test_a_replica_that_is_retired_while_it_connects_ends(monkeypatch, is_away):
    linked = Linked(monkeypatch)
    linked.connector.is_away = is_away
    await asyncio.sleep(0)
    linked.replica.retire()
    await turns()
    assert linked.running.done()
    assert all(link.is_closed for link in linked.connector.links)


def test_a_batch_takes_parts_of_messages_as_they_are():
    message = b"0123456789abcdef"
    views = [memoryview(message)[begin : begin + 8] for begin in (0, 8)]
    queries = [
        Query("", None, served(), (view,), 1, (), 0.0, NEVER, lambda *_: None) for view in views
    ]
    for count, joined in ((1, message[:8]), (2, message)):
        batch = Batch(1, queries[:count], 0.0)
        assert list(pb.Batch.FromString(replicas._encode(batch)).inputs) == [joined]
