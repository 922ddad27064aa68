"""Requests about deployments, as protobuf messages."""

from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.field_mask_pb2 import FieldMask

from skysail.calls.application_requests import DEFAULT_SLO_MS, application_message
from skysail.sentinels import NOT_GIVEN
from skysail_common.errors import InvalidInput
from skysail_common.resources import ResourceChanges
from skysail_common.rpc.messages import duration, serving_paths, serving_to_proto
from skysail_common.rpc.resource_messages import resources_to_proto
from skysail_common.serving_options import MAX_BATCH_SIZE, ServingOptions
from skysail_protos.v1 import management_pb2, routing_pb2


def deploy_request(
    *,
    name: str,
    version: str | int | None,
    num_replicas: int | None,
    promote: bool | None,
    labels: Mapping[str, str] | None,
    environment: Mapping[str, str] | None,
    resources: ResourceChanges,
    max_batch_size: int | None,
    start_timeout_s: float | None,
    warm_up: bool | None,
    application: str | None = None,
    slo_ms: float | None = None,
    default_output: Any = NOT_GIVEN,
) -> management_pb2.DeployRequest:
    """Return the request that `AsyncClient.deploy` describes, without its artifact.

    Raises:
        InvalidInput: a value of an application is given without its name.
    """
    endpoint = None
    if application is not None:
        endpoint = application_message(application, default_output, slo_ms or DEFAULT_SLO_MS)
    elif slo_ms is not None or default_output is not NOT_GIVEN:
        raise InvalidInput(
            "cannot use slo_ms or default_output without an application; give application too"
        )
    return management_pb2.DeployRequest(
        model=name,
        version="" if version is None else str(version),
        labels=labels,
        num_replicas=num_replicas,
        resources=resources_to_proto(resources),
        environment=None
        if environment is None
        else management_pb2.Environment(variables=environment),
        serving=routing_pb2.ServingOptions(max_batch_size=max_batch_size)
        if max_batch_size
        else None,
        start_timeout=None if start_timeout_s is None else duration(start_timeout_s),
        promote=promote,
        warm_up=warm_up,
        application=endpoint,
    )


def tune_request(
    model: str, version: str | int | None, **options: Any
) -> management_pb2.SetServingOptionsRequest:
    """Return the request that `AsyncClient.tune` describes.

    Raises:
        InvalidInput: an option is out of range; the message names it.
    """
    given = {name: value for name, value in options.items() if value is not NOT_GIVEN}
    values = {name: value for name, value in given.items() if value is not None}
    if "preferred_batch_sizes" in values:
        values["preferred_batch_sizes"] = tuple(values["preferred_batch_sizes"])
    # The server checks whether the sizes fit a batch, because it knows the other options.
    serving = ServingOptions(**{"max_batch_size": MAX_BATCH_SIZE, **values})
    serving.check()
    message = serving_to_proto(serving)
    for path in set(serving_paths(vars(serving))) - set(serving_paths(values)):
        message.ClearField(cast(Any, path))
    return management_pb2.SetServingOptionsRequest(
        model=model,
        version="" if version is None else str(version),
        serving=message,
        update_mask=FieldMask(paths=serving_paths(given)),
    )


def scale_request(
    model: str, version: str | int | None, num_replicas: int
) -> management_pb2.ScaleRequest:
    """Return the request that `AsyncClient.scale` describes."""
    return management_pb2.ScaleRequest(
        model=model, version="" if version is None else str(version), num_replicas=num_replicas
    )


def autoscaling_request(
    model: str, version: str | int | None, min_replicas: int, max_replicas: int
) -> management_pb2.SetAutoscalingRequest:
    """Return the request that `AsyncClient.autoscale` describes."""
    return management_pb2.SetAutoscalingRequest(
        model=model,
        version="" if version is None else str(version),
        autoscaling=management_pb2.Autoscaling(
            min_replicas=min_replicas, max_replicas=max_replicas
        ),
    )
