"""The choice of the transport for the query path."""

import importlib
import logging
from typing import Literal

from skysail_common.errors import FailedPrecondition
from skysail_common.rpc.contract import Transport
from skysail_common.rpc.grpc_transport import GrpcTransport

log = logging.getLogger(__name__)

VARIABLE = "SKYSAIL_TRANSPORT"
"""Environment variable of the setting, the same for every process of a cluster."""


TransportName = Literal["auto", "grpc", "native"]
"""Values of the setting; `auto` is the native transport if it is installed, else grpc.aio."""


def uses_native(name: TransportName) -> bool:
    """Return whether the setting selects the native transport on this machine, and log the choice.

    Raises:
        FailedPrecondition: the setting is `native`, but the package is not installed.
    """
    problem = "" if name == "grpc" else _problem_with_native()
    if name == "native" and problem:
        raise FailedPrecondition(
            f"{VARIABLE}=native needs the package skysail-transport: {problem}; build it with "
            "'make transport', or set auto"
        )
    is_native = name != "grpc" and not problem
    extra = {"transport": "native" if is_native else "grpc", "setting": name}
    log.info("transport", extra=extra | ({"native": problem} if problem else {}))
    return is_native


def _problem_with_native() -> str:
    """Return why the native transport is unusable; an empty text if it is usable."""
    try:
        importlib.import_module("skysail_transport")
    except ImportError as error:
        return str(error)
    return ""


def open_transport(
    name: TransportName, max_message_bytes: int, max_connection_age_s: float = 0.0
) -> Transport:
    """Return the transport of the setting, for use in the running event loop.

    Args:
        name: The setting.
        max_message_bytes: Largest message of a client.
        max_connection_age_s: Age at which a client must reconnect, with a jitter of a tenth; its
            calls in flight end first. 0 for no limit.

    Raises:
        FailedPrecondition: the setting is `native`, but the package is not installed.
    """
    if uses_native(name):
        # The import is here because the native transport may not be installed.
        from skysail_common.rpc.native.transport import NativeTransport

        return NativeTransport(max_message_bytes, max_connection_age_s)
    return GrpcTransport(max_message_bytes, max_connection_age_s)
