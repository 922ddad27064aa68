"""Parameters of requests of the Open Inference Protocol, for gRPC and REST."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from skysail_common.errors import InvalidInput, Unsupported, shown
from skysail_frontend.core.query import DEFAULT_PRIORITY
from skysail_frontend.ingress.function_params import function_params

_MAX_PRIORITY = 1_000_000
_ALLOWED_TRITON_KEY = "triton_enable_empty_final_response"

PROTOCOL_PARAMETERS = frozenset(
    {
        "binary_data_output",
        "content_type",
        "headers",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
    }
)
"""Parameters that clients and servers of the protocol use; the function of a model never gets them."""


@dataclass(frozen=True)
class RequestOptions:
    """Options of a request, from its parameters."""

    timeout_s: float | None = None
    """Longest wait; None if the request has no limit."""
    priority: int = DEFAULT_PRIORITY
    """Priority; 1 is the most urgent."""
    params: str = ""
    """Parameters for the function of the model, as canonical JSON; empty for none."""


def request_options(parameters: Mapping[str, Any]) -> RequestOptions:
    """Return the options of a request; the parameter `timeout` is in microseconds.

    Parameters that the protocol does not use are for the function of the model.

    Raises:
        InvalidInput: a parameter has a wrong type, a value out of range, or a reserved name.
        Unsupported: a parameter selects an unsupported feature.
    """
    for name in parameters:
        if name.startswith("triton_") and name != _ALLOWED_TRITON_KEY:
            raise InvalidInput(
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the "
                "following keys starting with 'triton_' are allowed: " + _ALLOWED_TRITON_KEY
            )
    if "sequence_id" in parameters:
        raise Unsupported("sequences are not supported: parameter 'sequence_id'")
    priority = _integer(parameters, "priority", "uint64_param")
    if priority is not None and priority < 0:
        raise InvalidInput("invalid value for 'priority', expected value >= 0.")
    timeout = _integer(parameters, "timeout", "int64_param")
    if timeout is not None and timeout < 0:
        raise InvalidInput("invalid value for 'timeout', expected microseconds >= 0.")
    return RequestOptions(
        timeout_s=timeout * 1e-6 if timeout else None,
        priority=min(priority, _MAX_PRIORITY) if priority else DEFAULT_PRIORITY,
        params=function_params(
            {
                name: value
                for name, value in parameters.items()
                if name not in PROTOCOL_PARAMETERS and not name.startswith("triton_")
            }
        ),
    )


def _integer(parameters: Mapping[str, Any], name: str, kind: str) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"invalid value type for '{name}' parameter, expected {kind}.")
    return value


def check_tensor_parameters(kind: str, name: str, parameters: Mapping[str, Any]) -> None:
    """Check that this server supports the parameters of a tensor.

    Raises:
        Unsupported: a parameter selects shared memory or classification.
    """
    if "shared_memory_region" in parameters:
        raise Unsupported(f"shared memory is not enabled: {kind} '{shown(name)}'")
    if "classification" in parameters:
        raise Unsupported(f"classification is not supported: {kind} '{shown(name)}'")
