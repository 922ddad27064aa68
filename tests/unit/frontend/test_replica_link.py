import asyncio

import pytest

from skysail_common.errors import (
    FailedPrecondition,
    ModelFailed,
    Unavailable,
)
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.contract import LinkObserver, Metadata
from skysail_frontend.core.query import Outcome, Query
from skysail_frontend.core.routes import ReplicaEndpoint
from skysail_frontend.upstream import replica_link
from skysail_frontend.upstream.replica_link import ReplicaLink
from skysail_protos.v1 import model_server_pb2 as pb
from unit.frontend.parts import Frontend, TurningLoop, served, turns


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
    """A connector whose replicas may be unreachable."""

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
    """A frontend with one real link on a fake connector."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("_FIRST_RETRY_S", "_MAX_RETRY_S"):
            monkeypatch.setattr(replica_link, name, 0.0)
        self.connector = FakeConnector()
        self.frontend = Frontend(served(), loop=TurningLoop, with_replicas=False)
        endpoint = ReplicaEndpoint("c1", "unix:/r")
        self.version = self.frontend.version()
        self.replica = ReplicaLink(endpoint, self.version, self.frontend.dispatcher, self.connector)
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
    # The queued query is sent without another event.
    linked.link.answer()
    assert linked.outcome(query) is Outcome.OK
    linked.running.cancel()


async def test_queries_that_could_not_be_sent_are_retried(linked):
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
    encode = replica_link.encode_batch

    def encode_others(batch):
        if bad in batch.queries:
            raise ValueError("too large")
        return encode(batch)

    monkeypatch.setattr(replica_link, "encode_batch", encode_others)
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
async def test_an_unusable_endpoint_is_retried(monkeypatch, caplog, error, level):
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


@pytest.mark.parametrize(
    "failing", [["schedule_dispatch"], ["schedule_dispatch", "requeue_batches"]]
)
async def test_an_error_after_the_link_opens_closes_it_and_reconnects(monkeypatch, failing):
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


async def test_a_malformed_message_closes_the_link_and_requeues_its_batches(linked):
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


async def test_a_closed_link_requeues_its_queries_and_reconnects(linked):
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


async def test_a_link_that_closes_in_order_counts_no_attempt(linked):
    query = linked.frontend.submit()
    await turns()
    linked.replica.link_closed("draining", has_died=False)
    assert query.is_queued
    assert query.attempts == 0


async def test_a_link_that_closes_while_it_opens_reconnects(monkeypatch):
    linked = Linked(monkeypatch)
    real = FakeConnector.__call__
    has_failed = False

    async def connect(self, endpoint, path, observer, metadata):
        nonlocal has_failed
        link = await real(self, endpoint, path, observer, metadata)
        if not has_failed:
            has_failed = True
            # The link closes before its opener resumes.
            observer.link_closed("reset by peer", has_died=True)
        return link

    monkeypatch.setattr(FakeConnector, "__call__", connect)
    await turns(30)
    assert len(linked.connector.links) == 2
    assert linked.replica.is_ready
    linked.running.cancel()


async def test_a_draining_link_answers_its_batches_and_ends(linked):
    query = linked.frontend.submit()
    await turns()
    linked.replica.drain()
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


async def test_an_idle_link_ends_at_once_when_drained(linked):
    linked.replica.drain()
    linked.replica.drain()
    assert linked.link.is_closed
    await turns()
    assert linked.running.done()


async def test_a_draining_link_that_closes_ends_and_requeues_its_queries(linked):
    query = linked.frontend.submit()
    await turns()
    linked.replica.drain()
    linked.replica.link_closed("reset by peer", has_died=True)
    await turns()
    assert linked.running.done()
    assert query.is_queued
    assert len(linked.connector.links) == 1


@pytest.mark.parametrize("is_away", [True, False])
async def test_a_link_drained_while_it_connects_ends(monkeypatch, is_away):
    linked = Linked(monkeypatch)
    linked.connector.is_away = is_away
    await asyncio.sleep(0)
    linked.replica.drain()
    await turns()
    assert linked.running.done()
    assert all(link.is_closed for link in linked.connector.links)
