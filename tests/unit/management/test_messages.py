from datetime import datetime, timezone
from pathlib import Path

import pytest

from skysail_common.artifacts import SignatureRecord
from skysail_common.identifiers import ModelVersion
from skysail_common.resources import Resources
from skysail_common.rpc.messages import signature_from_proto
from skysail_common.serving_options import ServingOptions
from skysail_common.states import ReplicaState
from skysail_common.tensors import InputType
from skysail_management import messages
from skysail_management.events import DeployEvent, DeployStep
from skysail_management.records import (
    ApplicationRecord,
    DeploymentRecord,
    ModelRecord,
    RouteRecord,
    VersionRecord,
)
from skysail_management.routing import RoutingState, VersionRouting, Watcher
from skysail_protos.v1 import management_pb2 as pb
from skysail_testing.management_parts import running_parts, signature_of
from skysail_testing.virtual_time import settle, until, virtual_time

APPLICATION = ApplicationRecord(
    name="app",
    input_type=InputType.DOUBLES,
    slo_s=0.0205,
    default_output_json="[0]",
    routes=(RouteRecord(model="m"), RouteRecord(model="m", version="2", weight=0.25)),
)
VERSION = VersionRecord(
    model="m",
    version="1",
    artifact_sha256="ab" * 32,
    artifact_bytes=5 * 10**9,
    signature=SignatureRecord.of(signature_of(InputType.STRINGS)),
    python_version="3.11.7",
    requirements=("six",),
    labels={"git": "abc"},
    registered_at=datetime(2024, 2, 29, 12, 30, 15, 250_000, timezone.utc),
)
DEPLOYMENT = DeploymentRecord(
    model="m",
    version="1",
    num_replicas=12,
    resources=Resources(num_threads=2, memory_mib=512, cpus=1.5, gpus=2),
    environment={"A": "b"},
    serving=ServingOptions(max_batch_size=32),
    start_timeout_s=1.5,
    warm_up=False,
)


def test_an_application_as_message():
    message = messages.application_to_proto(APPLICATION)
    assert (message.name, message.default_output_json) == ("app", "[0]")
    assert message.input_type == InputType.DOUBLES
    assert message.slo.ToMicroseconds() == 20_500
    assert [(route.model, route.version, route.weight) for route in message.routes] == [
        ("m", "", 1.0),
        ("m", "2", 0.25),
    ]


def test_missing_default_output_differs_from_an_empty_one():
    without = APPLICATION.model_copy(update={"default_output_json": None})
    empty = APPLICATION.model_copy(update={"default_output_json": '""'})
    assert not messages.application_to_proto(without).HasField("default_output_json")
    assert messages.application_to_proto(empty).default_output_json == '""'
    for record, has_default in ((without, False), (empty, True)):
        state = RoutingState((record,), ())
        (routed,) = messages.snapshot_to_proto("c", 1, state, lambda _: (), 2.0).applications
        assert routed.HasField("default_output_json") == has_default


def test_a_deployment_as_message():
    message = messages.deployment_to_proto(DEPLOYMENT)
    assert (message.num_replicas, message.serving.max_batch_size) == (12, 32)
    assert (message.resources.num_threads, message.resources.memory_mib) == (2, 512)
    assert (message.resources.cpus, message.resources.gpus) == (1.5, 2)
    assert list(message.environment_names) == ["A"]
    assert message.start_timeout.ToMilliseconds() == 1500
    assert not message.warm_up
    assert message.rollout_state == pb.ROLLOUT_STATE_IN_PROGRESS
    done = DEPLOYMENT.model_copy(update={"is_rolled_out": True})
    assert messages.deployment_to_proto(done).rollout_state == pb.ROLLOUT_STATE_COMPLETE


def test_undeployed_version_as_message():
    message = messages.version_to_proto(VERSION, None, None, is_current=False)
    assert (message.model, message.version) == ("m", "1")
    assert (message.artifact_sha256, message.artifact_bytes) == ("ab" * 32, 5 * 10**9)
    assert signature_from_proto(message.signature) == VERSION.to_signature()
    assert message.input_type == InputType.STRINGS
    assert dict(message.labels) == {"git": "abc"}
    assert message.registered_at.ToDatetime(timezone.utc) == VERSION.registered_at
    assert (message.python_version, list(message.requirements)) == ("3.11.7", ["six"])
    assert not message.HasField("deployment")
    assert not message.replicas


def test_passwords_of_package_indexes_are_hidden():
    given = (
        "--extra-index-url https://me:s3cret@example.org/simple",
        "mine @ git+ssh://git:s3cret@example.org/mine.git@v1",
        "six==1.16 --hash=sha256:ab",
    )
    record = VERSION.model_copy(update={"requirements": given})
    message = messages.version_to_proto(record, None, None, is_current=False)
    assert list(message.requirements) == [
        "--extra-index-url https://***@example.org/simple",
        "mine @ git+ssh://***@example.org/mine.git@v1",
        "six==1.16 --hash=sha256:ab",
    ]


def test_desired_replicas_are_pending_in_order():
    message = messages.version_to_proto(VERSION, DEPLOYMENT, None, is_current=False)
    assert [replica.replica_id for replica in message.replicas] == [f"m:1/{n}" for n in range(12)]
    assert {replica.state for replica in message.replicas} == {pb.REPLICA_STATE_PENDING}


@virtual_time
async def test_observed_replicas_as_messages(tmp_path: Path):
    async with running_parts(tmp_path) as parts:
        await parts.deployed("m:1", num_replicas=3)
        loop = parts.reconciler.version_loop(ModelVersion("m", "1"))
        parts.manager.fail("c1", reason="killed by SIGKILL")
        await until(lambda: "c4" in parts.manager.ids(ReplicaState.READY))
        parts.manager.fail("c2", reason="exited with status 1")
        await settle()

        def replicas() -> list[pb.Replica]:
            record = parts.models.version("m", "1")
            return list(
                messages.version_to_proto(
                    record, parts.deployment("m:1"), loop, is_current=False
                ).replicas
            )

        first, second, third = replicas()
        assert (first.container_id, first.num_restarts) == ("c4", 1)
        assert (first.state, first.endpoint) == (pb.REPLICA_STATE_READY, "unix:/c4.sock")
        # The reason stays after the restart.
        assert first.reason == "restarted: killed by SIGKILL"
        assert (second.container_id, second.num_restarts) == ("c2", 1)
        assert (second.state, second.reason) == (pb.REPLICA_STATE_FAILED, "exited with status 1")
        assert (third.container_id, third.num_restarts, third.reason) == ("c3", 0, "")
        # A failure of a replica that is no longer wanted is nobody's business.
        await parts.deployments.scale("m", "1", 1)
        await until(lambda: len(replicas()) == 1)


def test_a_model_as_message():
    record = ModelRecord(name="m", current_version="3", previous_versions=("1", "2"))
    version = messages.version_to_proto(VERSION, None, None, is_current=False)
    message = messages.model_to_proto(record, [version])
    assert (message.name, message.current_version) == ("m", "3")
    assert list(message.previous_versions) == ["1", "2"]
    assert list(message.versions) == [version]


@pytest.mark.parametrize("step", list(DeployStep))
def test_an_event_as_message(step: DeployStep):
    message = messages.event_to_proto(DeployEvent(step, "text", "m:1/0", "tail", 1, 2))
    assert pb.DeployStep.Name(message.step) == f"DEPLOY_STEP_{step.name}"
    assert (message.message, message.replica_id, message.log_tail) == ("text", "m:1/0", "tail")
    assert (message.num_ready, message.num_replicas) == (1, 2)


def test_states_match_the_protocol():
    for state in ReplicaState:
        assert pb.ReplicaState.Name(state) == f"REPLICA_STATE_{state.name}"


def test_a_frontend_as_message():
    message = messages.frontend_to_proto(Watcher("f1", "a:1", "b:2", 7))
    assert (message.frontend_id, message.grpc_endpoint) == ("f1", "a:1")
    assert (message.http_endpoint, message.applied_sequence) == ("b:2", 7)


def test_a_routing_state_as_message():
    routing = VersionRouting(VERSION, DEPLOYMENT, True, (("c1", "unix:/1"), ("c2", "h:2")))
    latencies = {"m:1": ((1, 0.002), (8, 0.01))}
    state = RoutingState((APPLICATION,), (routing,))
    message = messages.snapshot_to_proto("c", 3, state, latencies.__getitem__, 2.0)
    assert (message.cluster, message.sequence) == ("c", 3)
    (application,) = message.applications
    assert (application.name, application.input_type) == ("app", InputType.DOUBLES)
    assert application.slo.ToMicroseconds() == 20_500
    assert [route.weight for route in application.routes] == [1.0, 0.25]
    (version,) = message.versions
    assert (version.model, version.version, version.is_current) == ("m", "1", True)
    assert (version.num_replicas, version.serving.max_batch_size) == (12, 32)
    assert [(each.rows, each.latency_us) for each in version.latencies] == [(1, 2000), (8, 10_000)]
    assert signature_from_proto(version.signature) == VERSION.to_signature()
    assert version.artifact_sha256 == "ab" * 32
    assert [(each.container_id, each.endpoint) for each in version.replicas] == [
        ("c1", "unix:/1"),
        ("c2", "h:2"),
    ]
