import asyncio
import contextlib

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput, SkysailError, Unavailable
from skysail_common.identifiers import ModelVersion
from skysail_common.process.backoff import BackOff
from skysail_common.rpc.contract import LinkObserver, Metadata
from skysail_common.rpc.messages import signature_to_proto
from skysail_common.tensors import InputType
from skysail_frontend.core.query import Outcome
from skysail_frontend.core.routes import Application, ReplicaEndpoint, Route
from skysail_frontend.upstream.routing_follower import RoutingFollower
from skysail_frontend.upstream.routing_messages import table_from_proto
from skysail_protos.v1 import management_pb2, model_server_pb2, routing_pb2
from skysail_testing.examples import examples
from skysail_testing.virtual_time import pass_time, virtual_time
from unit.frontend.parts import DOUBLES, Frontend, TurningLoop, turns

M1 = ModelVersion("m", "1")


def version_of(name: str = "m:1", *containers: str, **fields: object) -> routing_pb2.RoutedVersion:
    model, version = name.split(":")
    fields = {
        "num_replicas": max(1, len(containers)),
        "serving": routing_pb2.ServingOptions(max_batch_size=8),
        **fields,
    }
    message = routing_pb2.RoutedVersion(
        model=model, version=version, signature=signature_to_proto(DOUBLES), **fields
    )
    for container in containers:
        message.replicas.add(container_id=container, endpoint=f"unix:/{container}")
    return message


def application_of(**fields: object) -> routing_pb2.RoutedApplication:
    fields = {
        "name": "app",
        "input_type": InputType.DOUBLES,
        "slo": Duration(seconds=1, nanos=500_000_000),
        **fields,
    }
    return routing_pb2.RoutedApplication(**fields)


def snapshot_of(*versions, applications=(), sequence: int = 1) -> routing_pb2.RoutingSnapshot:
    return routing_pb2.RoutingSnapshot(
        sequence=sequence, cluster="c", applications=applications, versions=versions
    )


# Route tables from snapshots.


def test_an_application_has_the_registered_fields():
    message = application_of(default_output_json='{"label": [1.5, null]}')
    message.routes.add(model="m", version="1", weight=0.25)
    message.routes.add(model="n", weight=0.75)
    table = table_from_proto(snapshot_of(applications=[message]))
    assert table.application("app") == Application(
        "app",
        InputType.DOUBLES,
        1.5,
        (Route("m", "1", 0.25), Route("n", "", 0.75)),
        has_default=True,
        default_output={"label": [1.5, None]},
    )


@pytest.mark.parametrize(
    ("text", "has_default", "value"),
    [(None, False, None), ("null", True, None), ('""', True, ""), ("0", True, 0)],
)
def test_no_default_output_differs_from_a_default_output_of_null(text, has_default, value):
    message = application_of()
    if text is not None:
        message.default_output_json = text
    app = table_from_proto(snapshot_of(applications=[message])).application("app")
    assert (app.has_default, app.default_output) == (has_default, value)


def test_a_version_has_the_deployed_fields():
    message = version_of(
        "m:1",
        "c1",
        "c2",
        is_current=True,
        num_replicas=3,
        serving=routing_pb2.ServingOptions(max_batch_size=64),
    )
    version = table_from_proto(snapshot_of(message)).version("m", "")
    assert version.name == M1
    assert version.signature == DOUBLES
    assert (version.is_current, version.num_replicas, version.serving.max_batch_size) == (
        True,
        3,
        64,
    )
    assert version.replicas == (
        ReplicaEndpoint("c1", "unix:/c1"),
        ReplicaEndpoint("c2", "unix:/c2"),
    )


def test_an_empty_snapshot_is_an_empty_table():
    table = table_from_proto(snapshot_of())
    assert not table.applications
    assert not table.versions


def _without_signature():
    message = version_of()
    message.ClearField("signature")
    return snapshot_of(message)


def _with_unknown_datatype():
    message = version_of()
    message.signature.inputs[0].datatype = 99
    return snapshot_of(message)


@pytest.mark.parametrize(
    "snapshot",
    [
        _without_signature(),
        _with_unknown_datatype(),
        snapshot_of(applications=[application_of(input_type=0)]),
        snapshot_of(applications=[application_of(input_type=99)]),
        snapshot_of(applications=[application_of(default_output_json="{")]),
        snapshot_of(applications=[application_of(default_output_json="")]),
    ],
)
def test_an_inconsistent_snapshot_is_invalid(snapshot):
    with pytest.raises(InvalidInput):
        table_from_proto(snapshot)


# Links to replicas.


class FakeLink:
    def __init__(self, endpoint: str, observer: LinkObserver, metadata: Metadata) -> None:
        self.endpoint = endpoint
        self.metadata = metadata
        self.observer = observer
        self.is_closed = False
        self.sent: list[model_server_pb2.Batch] = []

    def send(self, message: bytes) -> None:
        self.sent.append(model_server_pb2.Batch.FromString(message))

    def close(self) -> None:
        self.is_closed = True

    def answer(self) -> None:
        batch = self.sent[-1]
        result = model_server_pb2.BatchResult(id=batch.id, outputs=batch.inputs)
        self.observer.link_received(result.SerializeToString())


class Following:
    """A frontend that follows snapshots, with links without a network."""

    def __init__(self, snapshot_file=None) -> None:
        self.frontend = Frontend(loop=TurningLoop)
        self.dispatcher = self.frontend.dispatcher
        self.links: dict[str, FakeLink] = {}
        self.away: set[str] = set()
        self.follower = RoutingFollower(self.dispatcher, self._connect, snapshot_file, 15.0)

    async def _connect(
        self, endpoint: str, path: str, observer: LinkObserver, metadata: Metadata = ()
    ) -> FakeLink:
        if endpoint in self.away:
            raise Unavailable("away")
        self.links[endpoint] = FakeLink(endpoint, observer, metadata)
        return self.links[endpoint]

    async def apply(self, *versions, **options) -> None:
        self.follower._apply(snapshot_of(*versions, **options))
        await turns()

    @property
    def open(self) -> set[str]:
        return {endpoint for endpoint, link in self.links.items() if not link.is_closed}

    @property
    def num_replicas(self) -> int:
        version = self.dispatcher.version(M1)
        return len(version.replicas) if version else 0


@pytest.fixture
async def following():
    following = Following()
    yield following
    await following.follower.stop()


async def test_each_replica_of_a_snapshot_gets_a_link(following):
    assert not following.follower.has_routes.is_set()
    await following.apply(version_of("m:1", "c1", "c2"), version_of("n:1", "c3"))
    assert following.follower.has_routes.is_set()
    assert following.open == {"unix:/c1", "unix:/c2", "unix:/c3"}
    assert following.dispatcher.is_ready(M1)
    assert following.num_replicas == 2


async def test_redeployed_content_has_its_own_links(following):
    await following.apply(version_of("m:1", "c1", artifact_sha256="old"))
    old = following.links["unix:/c1"]
    await following.apply(version_of("m:1", "c1", artifact_sha256="new"), sequence=2)
    new = following.links["unix:/c1"]
    assert old.is_closed
    assert not new.is_closed
    assert following.num_replicas == 1
    assert dict(new.metadata) == {"skysail-version": "m:1", "skysail-artifact": "new"}


async def test_the_same_snapshot_again_changes_nothing(following):
    await following.apply(version_of("m:1", "c1"))
    link = following.links["unix:/c1"]
    await following.apply(version_of("m:1", "c1"), sequence=2)
    assert following.links["unix:/c1"] is link
    assert following.num_replicas == 1


async def test_links_follow_added_and_removed_replicas(following):
    await following.apply(version_of("m:1", "c1"))
    await following.apply(version_of("m:1", "c1", "c2"))
    assert following.open == {"unix:/c1", "unix:/c2"}
    await following.apply(version_of("m:1", "c2"))
    assert following.open == {"unix:/c2"}
    assert following.num_replicas == 1
    assert following.dispatcher.is_ready(M1)


async def test_a_removed_replica_answers_its_batches_first(following):
    await following.apply(version_of("m:1", "c1"))
    query = following.frontend.submit()
    await turns()
    await following.apply(version_of("m:1", "c2"))
    assert following.open == {"unix:/c1", "unix:/c2"}
    assert following.num_replicas == 2
    following.links["unix:/c1"].answer()
    assert following.frontend.settled[query].outcome is Outcome.OK
    await turns()
    assert following.open == {"unix:/c2"}
    assert following.num_replicas == 1


async def test_a_removed_version_closes_its_links(following):
    await following.apply(version_of("m:1", "c1"))
    await following.apply()
    assert following.open == set()
    assert following.dispatcher.version(M1) is None
    await following.apply(version_of("m:1", "c2"))
    assert following.open == {"unix:/c2"}
    assert following.dispatcher.is_ready(M1)


async def test_scaling_to_zero_fails_queued_queries_and_closes_links(following):
    following.away.add("unix:/c1")
    await following.apply(version_of("m:1", "c1"))
    query = following.frontend.submit()
    await following.apply(version_of("m:1", num_replicas=0))
    assert following.frontend.settled[query].outcome is Outcome.DEFAULT_NO_REPLICA


async def test_queued_queries_are_sent_to_a_new_replica(following):
    await following.apply(version_of("m:1"))
    query = following.frontend.submit(within_s=10.0)
    await turns()
    await following.apply(version_of("m:1", "c1"))
    following.links["unix:/c1"].answer()
    assert following.frontend.settled[query].outcome is Outcome.OK


async def test_stopping_ends_every_link_task(following):
    await following.apply(version_of("m:1", "c1", "c2"))
    await following.follower.stop()
    await turns()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not any(name.startswith("replica ") for name in names)


# Failures.


class FakeStream:
    """A stream of management that sends snapshots and ends."""

    def __init__(self, *snapshots: routing_pb2.RoutingSnapshot) -> None:
        self.snapshots = list(snapshots)
        self.said: list[management_pb2.WatchRoutingRequest] = []

    def WatchRouting(self) -> "FakeStream":
        return self

    async def read(self) -> object:
        await turns()
        return self.snapshots.pop(0) if self.snapshots else grpc.aio.EOF

    async def write(self, message: management_pb2.WatchRoutingRequest) -> None:
        self.said.append(message)

    def cancel(self) -> None:
        pass


async def follow(following: Following, stream: FakeStream) -> list[int]:
    """Follow a stream to its end and return the acknowledged sequences."""
    introduction = management_pb2.WatchRoutingRequest(frontend_id="f")
    await following.follower._follow_once(stream, introduction, BackOff(0.0, 0.0))
    return [message.applied_sequence for message in stream.said[1:] if message.applied_sequence]


async def test_a_snapshot_that_cannot_be_applied_does_not_end_the_stream(
    following, monkeypatch, caplog
):
    apply = following.dispatcher.apply
    stale = []

    def fail_at_two_versions(table):
        stale.append(following.dispatcher.statistics.has_stale_routes)
        if len(table.versions) == 2:
            raise RuntimeError("a bug")
        apply(table)

    monkeypatch.setattr(following.dispatcher, "apply", fail_at_two_versions)
    stream = FakeStream(
        snapshot_of(version_of("m:1", "c1")),
        snapshot_of(version_of("m:1", "c1"), version_of("n:1", "c2"), sequence=2),
        snapshot_of(version_of("m:1", "c3"), sequence=3),
    )
    assert await follow(following, stream) == [1, 3]
    assert stale == [False, False, True]
    assert not following.dispatcher.statistics.has_stale_routes
    assert "routes not applied" in caplog.text
    assert "RuntimeError: a bug" in caplog.text
    await turns()
    assert following.open == {"unix:/c3"}


async def test_a_snapshot_file_that_cannot_be_applied_is_ignored(tmp_path, monkeypatch, caplog):
    (tmp_path / "routes.bin").write_bytes(snapshot_of(version_of("m:1", "c1")).SerializeToString())
    following = Following(tmp_path / "routes.bin")

    def fail(table):
        raise RuntimeError("a bug")

    monkeypatch.setattr(following.dispatcher, "apply", fail)
    following.follower.load_snapshot()
    assert not following.follower.has_routes.is_set()
    assert "RuntimeError: a bug" in caplog.text


async def test_failed_reports_end_the_stream(following, monkeypatch, caplog):
    async def fail(send):
        await turns()
        raise RuntimeError("a bug")

    async def never() -> object:
        await asyncio.Event().wait()

    monkeypatch.setattr(following.follower, "_report_loads", fail)
    stream = FakeStream()
    monkeypatch.setattr(stream, "read", never)
    with pytest.raises(SkysailError, match="an internal error ended the reports"):
        await follow(following, stream)
    assert "RuntimeError: a bug" in caplog.text


GONE = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.mark.parametrize("error", [asyncio.InvalidStateError("ended"), GONE])
async def test_reports_on_a_closed_stream_leave_the_reason_to_the_reader(
    following, monkeypatch, error
):
    async def fail(send):
        raise error

    monkeypatch.setattr(following.follower, "_report_loads", fail)
    assert await follow(following, FakeStream(snapshot_of())) == [1]


# The snapshot file.


@pytest.fixture
def file(tmp_path):
    return tmp_path / "routes.bin"


async def test_the_latest_snapshot_is_saved_and_loaded(file):
    before = Following(file)
    snapshot = snapshot_of(version_of("m:1", "c1"), applications=[application_of()])
    before.follower._apply_and_save(snapshot)
    await turns()
    await before.follower.stop()
    assert [each.name for each in file.parent.iterdir()] == ["routes.bin"]

    after = Following(file)
    after.follower.load_snapshot()
    await turns()
    assert after.follower.has_routes.is_set()
    assert after.dispatcher.is_ready(M1)
    assert after.dispatcher.table.application("app").slo_s == 1.5
    await after.follower.stop()


async def test_a_newer_snapshot_replaces_the_file(file):
    following = Following(file)
    for sequence in (1, 2):
        following.follower._apply_and_save(snapshot_of(sequence=sequence))
        await turns()
    await following.follower.stop()
    assert routing_pb2.RoutingSnapshot.FromString(file.read_bytes()).sequence == 2


async def test_a_snapshot_file_that_cannot_be_written_does_not_prevent_routing(tmp_path, caplog):
    following = Following(tmp_path / "missing" / "routes.bin")
    following.follower._apply_and_save(snapshot_of(version_of("m:1", "c1")))
    await turns()
    assert following.dispatcher.is_ready(M1)
    await following.follower.stop()
    assert "snapshot not written" in caplog.text


@pytest.mark.parametrize("has_file", [True, False])
async def test_without_a_file_there_are_no_routes(file, has_file):
    following = Following(file if has_file else None)
    following.follower.load_snapshot()
    assert not following.follower.has_routes.is_set()


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xff\xff",
        _without_signature().SerializeToString(),
        snapshot_of(applications=[application_of(input_type=99)]).SerializeToString(),
        snapshot_of(applications=[application_of(default_output_json="{")]).SerializeToString(),
        snapshot_of(version_of("m:1", "c1")).SerializeToString()[:-3],
    ],
)
async def test_a_corrupt_snapshot_file_is_ignored(file, content, caplog):
    file.write_bytes(content)
    following = Following(file)
    following.follower.load_snapshot()
    assert not following.follower.has_routes.is_set()
    assert "snapshot file not usable" in caplog.text
    assert not following.dispatcher.table.versions


async def test_an_unreadable_snapshot_file_is_ignored(file):
    file.mkdir()
    following = Following(file)
    following.follower.load_snapshot()
    assert not following.follower.has_routes.is_set()


full = snapshot_of(
    version_of("m:1", "c1"), applications=[application_of(default_output_json="[1]")]
).SerializeToString()
spoiled = st.builds(
    lambda index, byte: full[:index] + bytes([byte]) + full[index + 1 :],
    st.integers(0, len(full) - 1),
    st.integers(0, 255),
)


@settings(max_examples=examples(50))
@given(st.binary(max_size=60) | spoiled)
def test_any_content_of_the_snapshot_file_is_a_table_or_invalid(content):
    with contextlib.suppress(DecodeError, InvalidInput):
        table_from_proto(routing_pb2.RoutingSnapshot.FromString(content))


# Load reports.


@virtual_time
async def test_the_load_of_autoscaled_versions_is_reported(tmp_path):
    following = Following()
    wanted = Duration(seconds=2)
    await following.apply(
        version_of("m:1", "c1", load_report_interval=wanted), version_of("n:1", "c2")
    )
    said = []

    async def send(message: management_pb2.WatchRoutingRequest) -> None:
        said.append(message)

    reporting = asyncio.ensure_future(following.follower._report_loads(send))
    for rows in (3, 0):
        await pass_time(1.0)
        if rows:
            following.frontend.submit(rows=rows, within_s=0.1)
            following.frontend.submit("n:1", rows=rows)
        following.frontend.clock.advance(2.0)
        await pass_time(1.5)
    first, second = [message.loads for message in said]
    assert [(each.model, each.version, each.arrived_rows) for each in first] == [("m", "1", 3)]
    assert first[0].window.ToMilliseconds() == 2000
    assert [each.arrived_rows for each in second] == [0]
    assert {message.applied_sequence for message in said} == {0}
    # Reports are disabled and then enabled again.
    await following.apply(version_of("m:1", "c1"))
    following.frontend.clock.advance(2.0)
    await pass_time(60.0)
    assert len(said) == 2
    await following.apply(version_of("m:1", "c1", load_report_interval=wanted))
    await pass_time(1.0)
    following.frontend.clock.advance(2.0)
    await pass_time(1.5)
    (third,) = said[2:]
    assert [each.window.ToMilliseconds() for each in third.loads] == [2000]
    reporting.cancel()
    await asyncio.gather(reporting, return_exceptions=True)
    await following.follower.stop()
