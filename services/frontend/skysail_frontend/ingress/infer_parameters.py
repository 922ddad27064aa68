"""Parameters of a request of the Open Inference Protocol, the same for gRPC and REST."""

from collections.abc import Mapping
from typing import Any

from skysail_common.errors import InvalidInput, Unsupported

_ALLOWED_TRITON_KEY = "triton_enable_empty_final_response"


def request_timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the time-out that the parameters name (microseconds there), or None.

    Raises:
        InvalidInput: a parameter has the wrong type, a value out of range, or a reserved name.
        Unsupported: a parameter asks for what this server does not do.
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
    if timeout is None or timeout == 0:
        return None
    if timeout < 0:
        raise InvalidInput("invalid value for 'timeout', expected microseconds >= 0.")
    return timeout * 1e-6


def _integer(parameters: Mapping[str, Any], name: str, kind: str) -> int | None:
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"invalid value type for '{name}' parameter, expected {kind}.")
    return value


def check_tensor_parameters(kind: str, name: str, parameters: Mapping[str, Any]) -> None:
    """Return if the options of a tensor are ones that this server knows.

    Raises:
        Unsupported: it asks for shared memory or classification.
    """
    if "shared_memory_region" in parameters:
        raise Unsupported(f"shared memory is not enabled: {kind} '{name}'")
    if "classification" in parameters:
        raise Unsupported(f"classification is not supported: {kind} '{name}'")
