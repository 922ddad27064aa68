"""Conversion of routes and loads between protobuf messages and values of the core."""

import json
from typing import Any

from skysail_common.errors import InvalidInput
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.messages import (
    duration,
    input_type_from_proto,
    latencies_from_proto,
    seconds,
    serving_from_proto,
    signature_from_proto,
)
from skysail_common.serving_options import ServingOptions
from skysail_frontend.core.load import VersionLoad
from skysail_frontend.core.routes import (
    Application,
    ReplicaEndpoint,
    Route,
    RouteTable,
    ServedVersion,
)
from skysail_protos.v1 import routing_pb2


def table_from_proto(snapshot: routing_pb2.RoutingSnapshot) -> RouteTable:
    """Return the route table that a snapshot describes.

    Raises:
        InvalidInput: the snapshot is inconsistent.
    """
    return RouteTable(
        [_application(message) for message in snapshot.applications],
        [_version(message) for message in snapshot.versions],
    )


def _application(message: routing_pb2.RoutedApplication) -> Application:
    has_default = message.HasField("default_output_json")
    return Application(
        name=message.name,
        input_type=input_type_from_proto(message.input_type),
        slo_s=message.slo.seconds + message.slo.nanos / 1e9,
        routes=tuple(Route(each.model, each.version, each.weight) for each in message.routes),
        has_default=has_default,
        uses_cache=not message.bypasses_cache,
        default_output=_json(message.default_output_json) if has_default else None,
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"default output is not JSON: {error}") from error


def _version(message: routing_pb2.RoutedVersion) -> ServedVersion:
    signature = signature_from_proto(message.signature)
    if not signature.is_known:
        raise InvalidInput(f"model '{message.model}:{message.version}' has no signature")
    return ServedVersion(
        ModelVersion(message.model, message.version),
        signature,
        serving_from_proto(message.serving, ServingOptions().max_batch_size),
        is_current=message.is_current,
        num_replicas=message.num_replicas,
        replicas=tuple(
            ReplicaEndpoint(each.container_id, each.endpoint) for each in message.replicas
        ),
        latencies=tuple(latencies_from_proto(message.latencies)),
        load_report_interval_s=seconds("load_report_interval", message.load_report_interval)
        if message.HasField("load_report_interval")
        else None,
        artifact_sha256=message.artifact_sha256,
        takes_params=message.takes_params,
    )


def load_to_proto(name: ModelVersion, load: VersionLoad) -> routing_pb2.LoadReport:
    """Return a load as a report to management."""
    return routing_pb2.LoadReport(
        model=name.model_name,
        version=name.version,
        window=duration(load.window_s),
        arrived_rows=load.arrived_rows,
        late_rows=load.late_rows,
        busy=duration(load.busy_s),
        capacity_rows_per_s=load.capacity_rows_per_s,
        deadline_used=load.deadline_used,
    )
