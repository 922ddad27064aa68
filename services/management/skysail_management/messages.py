"""Records and observations as protobuf messages."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from skysail_common.errors import InvalidInput
from skysail_common.identifiers import ReplicaId
from skysail_common.redaction import without_credentials
from skysail_common.rpc.messages import (
    difference_to_proto,
    duration,
    input_type_from_proto,
    latencies_to_proto,
    seconds,
    serving_changes,
    serving_to_proto,
    signature_to_proto,
)
from skysail_common.rpc.resource_messages import (
    resource_changes_from_proto,
    resources_to_proto,
)
from skysail_common.states import ReplicaState
from skysail_common.tensors import InputType
from skysail_management.artifacts.blobs import BlobId, BlobStart
from skysail_management.catalog.applications import ApplicationSpec
from skysail_management.catalog.deployment_specs import DeploymentSpec
from skysail_management.containers.base import Container
from skysail_management.events import DeployEvent
from skysail_management.reconciler.version_loop import VersionLoop
from skysail_management.records import (
    ApplicationRecord,
    AutoscalingRecord,
    DeploymentRecord,
    ModelRecord,
    RouteRecord,
    VersionRecord,
)
from skysail_management.routing import RoutingState, VersionRouting, Watcher
from skysail_protos.v1 import management_pb2, routing_pb2, tensors_pb2


def _timestamp(moment: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _input_type(input_type: InputType) -> tensors_pb2.InputType.ValueType:
    return tensors_pb2.InputType.ValueType(input_type)


def _routes(routes: tuple[RouteRecord, ...]) -> list[routing_pb2.Route]:
    return [
        routing_pb2.Route(model=route.model, version=route.version, weight=route.weight)
        for route in routes
    ]


async def blob_parts(
    requests: AsyncIterator[management_pb2.UploadBlobsRequest],
) -> AsyncIterator[BlobStart | bytes]:
    """Yield the parts of an upload of blobs."""
    async for request in requests:
        if request.WhichOneof("part") == "header":
            blob = request.header.blob
            yield BlobStart(BlobId(blob.sha256, blob.size_bytes), request.header.offset)
        else:
            yield request.chunk


def application_to_proto(record: ApplicationRecord) -> management_pb2.Application:
    """Return the message of an application."""
    return management_pb2.Application(
        name=record.name,
        input_type=_input_type(record.input_type),
        slo=duration(record.slo_s),
        default_output_json=record.default_output_json,
        bypasses_cache=record.bypasses_cache,
        routes=_routes(record.routes),
    )


def _autoscaling(record: AutoscalingRecord | None) -> management_pb2.Autoscaling | None:
    if record is None:
        return None
    return management_pb2.Autoscaling(
        min_replicas=record.min_replicas, max_replicas=record.max_replicas
    )


def deployment_to_proto(record: DeploymentRecord) -> management_pb2.Deployment:
    """Return the message of a deployment."""
    is_complete = record.is_rolled_out
    return management_pb2.Deployment(
        num_replicas=record.num_replicas,
        resources=resources_to_proto(record.resources),
        environment_names=sorted(record.environment),
        serving=serving_to_proto(record.serving),
        start_timeout=duration(record.start_timeout_s),
        warm_up=record.warm_up,
        rollout_state=management_pb2.ROLLOUT_STATE_COMPLETE
        if is_complete
        else management_pb2.ROLLOUT_STATE_IN_PROGRESS,
        autoscaling=_autoscaling(record.autoscaling),
    )


def _replica(container: Container, num_restarts: int, earlier: str) -> management_pb2.Replica:
    reason = container.reason
    if not reason and num_restarts and earlier:
        # The reason stays visible after the restart.
        reason = f"restarted: {earlier}"
    message = management_pb2.Replica(
        replica_id=str(container.replica_id),
        container_id=container.container_id,
        state=management_pb2.ReplicaState.ValueType(container.state),
        reason=reason,
        endpoint=container.endpoint,
        num_restarts=num_restarts,
    )
    if container.started_at is not None:
        message.started_at.CopyFrom(_timestamp(container.started_at))
    return message


def _replicas(
    record: VersionRecord, deployment: DeploymentRecord | None, loop: VersionLoop | None
) -> list[management_pb2.Replica]:
    wanted = deployment.num_replicas if deployment else 0
    live = loop.replicas.containers if loop else []
    failed = loop.replicas.failed if loop else {}
    found = []
    for container in [*live, *(each for index, each in failed.items() if index < wanted)]:
        index = container.replica_id.index
        earlier = loop.replicas.last_failed(index) if loop else None
        restarts = loop.replicas.num_restarts(index) if loop else 0
        found.append(_replica(container, restarts, earlier.reason if earlier else ""))
    present = {message.replica_id for message in found}
    for index in range(wanted):
        replica_id = f"{record.model_version}/{index}"
        if replica_id not in present:
            state = management_pb2.ReplicaState.ValueType(ReplicaState.PENDING)
            reason = loop.waiting_reason(index) if loop else ""
            found.append(management_pb2.Replica(replica_id=replica_id, state=state, reason=reason))
    return sorted(found, key=lambda message: ReplicaId.parse(message.replica_id).index)


def version_to_proto(
    record: VersionRecord,
    deployment: DeploymentRecord | None,
    loop: VersionLoop | None,
    *,
    is_current: bool,
) -> management_pb2.Version:
    """Return the message of a version, with its desired and observed state."""
    return management_pb2.Version(
        model=record.model,
        version=record.version,
        artifact_sha256=record.artifact_sha256,
        artifact_bytes=record.artifact_bytes,
        signature=signature_to_proto(record.to_signature()),
        input_type=_input_type(record.input_type),
        labels=record.labels,
        registered_at=_timestamp(record.registered_at),
        python_version=record.python_version,
        # The URL of a package index may contain a password.
        requirements=[without_credentials(each) for each in record.requirements],
        deployment=deployment_to_proto(deployment) if deployment else None,
        replicas=_replicas(record, deployment, loop),
        is_current=is_current,
        package_differences=map(difference_to_proto, loop.package_differences if loop else ()),
    )


def model_to_proto(
    record: ModelRecord, versions: list[management_pb2.Version]
) -> management_pb2.Model:
    """Return the message of a model with its versions."""
    return management_pb2.Model(
        name=record.name,
        current_version=record.current_version,
        previous_versions=record.previous_versions,
        versions=versions,
    )


def deployment_spec_from_proto(
    request: management_pb2.DeployRequest, default_max_batch_size: int
) -> DeploymentSpec:
    """Return the deployment that a caller requests.

    Raises:
        InvalidInput: a serving option or a duration is out of range.
    """

    def given(field: Any) -> Any:
        return getattr(request, field) if request.HasField(field) else None

    has_timeout = request.HasField("start_timeout")
    return DeploymentSpec(
        artifact_sha256=request.artifact_sha256,
        labels=dict(request.labels),
        num_replicas=given("num_replicas"),
        resources=resource_changes_from_proto(request.resources),
        environment=dict(request.environment.variables)
        if request.HasField("environment")
        else None,
        serving=serving_changes(request.serving, default_max_batch_size),
        start_timeout_s=seconds("start_timeout", request.start_timeout) if has_timeout else None,
        promote=given("promote"),
        warm_up=given("warm_up"),
        application=application_spec_from_proto(request.application)
        if request.HasField("application")
        else None,
    )


def application_spec_from_proto(message: management_pb2.Application) -> ApplicationSpec:
    """Return the application that a caller requests.

    Raises:
        InvalidInput: it has routes, or a value is out of range.
    """
    if message.routes:
        raise InvalidInput(
            "cannot register an application with routes; register it without, then set them"
        )
    return ApplicationSpec(
        message.name,
        seconds("slo", message.slo),
        message.default_output_json if message.HasField("default_output_json") else None,
        message.bypasses_cache,
        input_type_from_proto(message.input_type) if message.input_type else None,
    )


def event_to_proto(event: DeployEvent) -> management_pb2.DeployEvent:
    """Return the message of an event."""
    return management_pb2.DeployEvent(
        step=management_pb2.DeployStep.ValueType(event.step),
        message=event.message,
        replica_id=event.replica_id,
        log_tail=event.log_tail,
        num_ready=event.num_ready,
        num_replicas=event.num_replicas,
        version=event.version,
    )


def frontend_to_proto(watcher: Watcher) -> management_pb2.Frontend:
    """Return the message of a frontend."""
    return management_pb2.Frontend(
        frontend_id=watcher.frontend_id,
        grpc_endpoint=watcher.grpc_endpoint,
        http_endpoint=watcher.http_endpoint,
        applied_sequence=watcher.applied_sequence,
        transport=watcher.transport,
    )


def _routed_version(
    routing: VersionRouting, latencies: Sequence[tuple[int, float]], load_report_interval_s: float
) -> routing_pb2.RoutedVersion:
    follows_load = routing.deployment.autoscaling is not None
    return routing_pb2.RoutedVersion(
        model=routing.record.model,
        version=routing.record.version,
        signature=signature_to_proto(routing.record.to_signature()),
        is_current=routing.is_current,
        num_replicas=routing.deployment.num_replicas,
        replicas=[
            routing_pb2.RoutedReplica(container_id=container_id, endpoint=endpoint)
            for container_id, endpoint in routing.replicas
        ],
        serving=serving_to_proto(routing.deployment.serving),
        latencies=latencies_to_proto(latencies),
        load_report_interval=duration(load_report_interval_s) if follows_load else None,
        artifact_sha256=routing.record.artifact_sha256,
        takes_params=routing.record.takes_params,
    )


def snapshot_to_proto(
    cluster: str,
    sequence: int,
    state: RoutingState,
    latencies: Callable[[str], Sequence[tuple[int, float]]],
    load_report_interval_s: float,
) -> routing_pb2.RoutingSnapshot:
    """Return the message of a routing state.

    Args:
        cluster: Name of the cluster.
        sequence: Number of the routing state.
        state: The routing state.
        latencies: Returns the latencies of a version by name.
        load_report_interval_s: Time between load reports about autoscaled versions.
    """
    return routing_pb2.RoutingSnapshot(
        sequence=sequence,
        cluster=cluster,
        applications=[
            routing_pb2.RoutedApplication(
                name=record.name,
                input_type=_input_type(record.input_type),
                slo=duration(record.slo_s),
                default_output_json=record.default_output_json,
                bypasses_cache=record.bypasses_cache,
                routes=_routes(record.routes),
            )
            for record in state.applications
        ],
        versions=[
            _routed_version(
                routing, latencies(str(routing.record.model_version)), load_report_interval_s
            )
            for routing in state.versions
        ],
    )
