"""Requests about applications, as protobuf messages."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from skysail.descriptions import Route
from skysail.sentinels import NOT_GIVEN
from skysail_common.errors import InvalidInput
from skysail_common.rpc.messages import duration
from skysail_common.tensors import InputType
from skysail_protos.v1 import management_pb2, routing_pb2, tensors_pb2

DEFAULT_SLO_MS = 100.0


def application_message(
    name: str, default_output: Any, slo_ms: float
) -> management_pb2.Application:
    """Return an application without input type, which is then that of its model.

    Raises:
        InvalidInput: the default output has no form in JSON.
    """
    application = management_pb2.Application(name=name, slo=duration(slo_ms / 1000))
    if default_output is not NOT_GIVEN:
        application.default_output_json = _default_json(default_output)
    return application


def register_request(
    name: str, input_type: str, default_output: Any, slo_ms: float
) -> management_pb2.RegisterApplicationRequest:
    """Return the request that `AsyncClient.register_application` describes."""
    application = application_message(name, default_output, slo_ms)
    application.input_type = tensors_pb2.InputType.ValueType(InputType.named(input_type))
    return management_pb2.RegisterApplicationRequest(application=application)


def update_request(
    name: str,
    slo_ms: float | None,
    default_output: Any,
    removes_default: bool,
    uses_cache: bool | None,
) -> management_pb2.UpdateApplicationRequest:
    """Return the request that `AsyncClient.update_application` describes."""
    request = management_pb2.UpdateApplicationRequest(
        name=name, removes_default_output=removes_default
    )
    if slo_ms is not None:
        request.slo.CopyFrom(duration(slo_ms / 1000))
    if default_output is not NOT_GIVEN:
        request.default_output_json = _default_json(default_output)
    if uses_cache is not None:
        request.bypasses_cache = not uses_cache
    return request


def routes_request(application: str, routes: Sequence[Route]) -> management_pb2.SetRoutesRequest:
    """Return the request that `AsyncClient.set_routes` describes."""
    return management_pb2.SetRoutesRequest(
        application=application,
        routes=[
            routing_pb2.Route(model=each.model, version=each.version, weight=each.weight)
            for each in routes
        ],
    )


def _default_json(value: Any) -> str:
    """Return a default output as JSON.

    Raises:
        InvalidInput: the value has no form in JSON.
    """
    try:
        text = json.dumps(value, default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"cannot write default_output as JSON: {error}") from None
    json.loads(text, parse_int=_check_whole)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"it holds a value of type {type(value).__name__}")


def _check_whole(digits: str) -> None:
    # A reader of JSON turns a larger integer into a float, which is another number.
    if not -(2**63) <= int(digits) < 2**64:
        raise InvalidInput(
            f"cannot use default_output: {digits} is not a 64-bit integer; give it as a float or as a "
            "text"
        )
