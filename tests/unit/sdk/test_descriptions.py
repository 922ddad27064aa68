import dataclasses
from datetime import datetime, timezone

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skysail import descriptions
from skysail.descriptions import (
    Application,
    ClusterStatus,
    DeployEvent,
    Deployment,
    Frontend,
    Model,
    Replica,
    Route,
    Version,
)
from skysail_common.rpc.messages import duration, signature_to_proto
from skysail_common.serving_options import ServingOptions
from skysail_common.tensors import DataType, InputType, Signature, TensorSpec
from skysail_protos.v1 import management_pb2 as pb
from skysail_protos.v1 import routing_pb2

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP64, (-1, 3)),), (TensorSpec("output", DataType.FP64, (-1,)),)
)
MOMENT = datetime(2024, 6, 1, 12, 30, 0, 250_000, timezone.utc)


def timestamp() -> Timestamp:
    message = Timestamp()
    message.FromDatetime(MOMENT)
    return message


def replica(index: int, state: int, **fields: object) -> pb.Replica:
    return pb.Replica(replica_id=f"sum:3/{index}", container_id=f"c{index}", state=state, **fields)


def version(*replicas: pb.Replica, **fields: object) -> pb.Version:
    return pb.Version(
        model="sum",
        version="3",
        artifact_sha256="a" * 64,
        signature=signature_to_proto(SIGNATURE),
        input_type=InputType.DOUBLES,
        labels={"team": "a"},
        registered_at=timestamp(),
        python_version="3.11.7",
        requirements=["numpy>=1.24"],
        replicas=replicas,
        **fields,
    )


def test_a_route_is_its_model_version_and_weight():
    message = routing_pb2.Route(model="sum", version="3", weight=0.25)
    assert Route.of(message) == Route("sum", "3", 0.25)
    assert Route.of(routing_pb2.Route(model="sum", weight=1)) == Route("sum")


@pytest.mark.parametrize(
    ("fields", "default_output", "has_default"),
    [
        ({}, None, False),
        ({"default_output_json": "null"}, None, True),
        ({"default_output_json": "[-1, 0.5]"}, [-1, 0.5], True),
        ({"default_output_json": '"é"'}, "é", True),
    ],
)
def test_an_application_has_a_flag_for_its_default_output(fields, default_output, has_default):
    message = pb.Application(
        name="app",
        input_type=InputType.STRINGS,
        slo=duration(0.05),
        routes=[routing_pb2.Route(model="sum", weight=1)],
        **fields,
    )
    assert Application.of(message) == Application(
        name="app",
        input_type="strings",
        slo_ms=50.0,
        default_output=default_output,
        has_default=has_default,
        routes=(Route("sum"),),
    )


@pytest.mark.parametrize("input_type", InputType, ids=lambda each: each.name)
def test_an_input_type_has_its_lower_case_name(input_type):
    found = Application.of(pb.Application(input_type=input_type.value))
    assert InputType.named(found.input_type) is input_type


def test_a_replica_has_its_state_and_its_start_time():
    message = replica(
        0,
        pb.REPLICA_STATE_READY,
        reason="warm",
        endpoint="unix:/s",
        num_restarts=2,
        started_at=timestamp(),
    )
    assert Replica.of(message) == Replica(
        "sum:3/0", "c0", "READY", "warm", "unix:/s", 2, MOMENT
    )  # fmt: skip
    assert Replica.of(replica(0, pb.REPLICA_STATE_PENDING)).started_at is None


def test_every_state_and_step_has_a_name():
    for name, number in pb.ReplicaState.items():
        assert Replica.of(replica(0, number)).state == name.removeprefix("REPLICA_STATE_")
    for name, number in pb.DeployStep.items():
        step = DeployEvent.of(pb.DeployEvent(step=number)).step
        assert step == name.removeprefix("DEPLOY_STEP_")


def test_a_deployment_has_every_desired_value():
    message = pb.Deployment(
        num_replicas=2,
        resources=pb.Resources(num_threads=3, memory_mib=512, cpus=1.5, gpus=2),
        environment_names=["LEVEL"],
        serving=routing_pb2.ServingOptions(max_batch_size=32),
        rollout_state=pb.ROLLOUT_STATE_COMPLETE,
        warm_up=True,
    )
    assert Deployment.of(message) == Deployment(
        2, 3, 512, 1.5, 2, ("LEVEL",), ServingOptions(max_batch_size=32), True, None, True
    )
    message.rollout_state = pb.ROLLOUT_STATE_IN_PROGRESS
    assert not Deployment.of(message).is_rolled_out


def test_a_version_has_every_value_of_the_message():
    ready = replica(0, pb.REPLICA_STATE_READY)
    failed = replica(1, pb.REPLICA_STATE_FAILED, reason="killed by signal 9")
    found = Version.of(version(ready, failed, deployment=pb.Deployment(num_replicas=2)))
    assert (found.model, found.version, found.artifact_sha256) == ("sum", "3", "a" * 64)
    assert found.signature == SIGNATURE
    assert found.input_type == "doubles"
    assert found.labels == {"team": "a"}
    assert found.registered_at == MOMENT
    assert found.python_version == "3.11.7"
    assert found.requirements == ("numpy>=1.24",)
    assert found.deployment is not None
    assert found.deployment.num_replicas == 2
    assert [each.state for each in found.replicas] == ["READY", "FAILED"]
    assert found.num_ready == 1


def test_a_version_that_is_not_deployed_has_no_deployment():
    found = Version.of(version())
    assert found.deployment is None
    assert found.replicas == ()
    assert found.num_ready == 0


def test_a_model_holds_its_versions():
    found = Model.of(
        pb.Model(
            name="sum", current_version="3", previous_versions=["1", "2"], versions=[version()]
        )
    )
    assert (found.name, found.current_version) == ("sum", "3")
    assert found.previous_versions == ("1", "2")
    assert found.versions == (Version.of(version()),)


def test_status_has_every_part_of_a_cluster():
    application = pb.Application(name="app", input_type=InputType.TENSORS, slo=duration(1))
    found = ClusterStatus.of(
        pb.GetClusterStatusResponse(
            cluster="default",
            skysail_version="0.1.0",
            container_manager="local",
            is_store_reachable=True,
            applications=[application],
            models=[pb.Model(name="sum", versions=[version()])],
            frontends=[
                pb.Frontend(frontend_id="f", grpc_endpoint="a:1", http_endpoint="a:2")
            ],
        )
    )  # fmt: skip
    assert (found.cluster, found.skysail_version) == ("default", "0.1.0")
    assert found.container_manager == "local"
    assert found.is_store_reachable
    assert found.applications == (Application.of(application),)
    assert [model.name for model in found.models] == ["sum"]
    assert found.frontends == (Frontend("f", "a:1", "a:2"),)


def test_a_deploy_event_has_every_value_of_the_message():
    message = pb.DeployEvent(
        step=pb.DEPLOY_STEP_FAILED,
        message="it failed",
        replica_id="sum:3/0",
        log_tail="Traceback",
        num_ready=1,
        num_replicas=2,
    )
    assert DeployEvent.of(message) == DeployEvent(
        "FAILED", "it failed", "sum:3/0", "Traceback", 1, 2
    )


def test_descriptions_cannot_be_changed():
    for value in vars(descriptions).values():
        if dataclasses.is_dataclass(value) and value.__module__ == descriptions.__name__:
            assert value.__dataclass_params__.frozen


def test_what_a_notebook_shows_is_one_line():
    deployed = Version.of(
        version(
            replica(0, pb.REPLICA_STATE_READY),
            replica(1, pb.REPLICA_STATE_STARTING),
            deployment=pb.Deployment(num_replicas=2),
        )
    )
    assert repr(deployed) == "<Version sum:3, 1 of 2 replicas ready, takes x FP64 [-1, 3]>"
    assert "sum:3, not deployed" in repr(Version.of(version()))
    current = Version.of(version(deployment=pb.Deployment(num_replicas=2), is_current=True))
    assert "0 of 2 replicas ready, current, takes" in repr(current)
    model = Model("sum", "", (), (deployed,))
    assert repr(model) == "<Model sum, versions 3, current none>"
    status = ClusterStatus("default", "0.1", "local", False, (), (model,), ())
    assert repr(status) == (
        "<ClusterStatus default, models [sum:none (1 replicas ready)], applications [], frontends 0, "
        "store not reachable>"
    )
    lost = ClusterStatus("default", "0.1", "local", True, (), (), (), "the store came back empty")
    assert repr(lost).endswith("frontends 0, the store came back empty>")
