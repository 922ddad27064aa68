"""Which transport carries the query path."""

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
"""The setting: the package skysail-transport, grpc.aio, or what is there, native first."""


def uses_native(name: TransportName) -> bool:
    """Return whether the setting means the native transport here, and log what it means.

    Raises:
        FailedPrecondition: it is asked for by name and not installed.
    """
    problem = "" if name == "grpc" else _problem_with_native()
    if name == "native" and problem:
        raise FailedPrecondition(
            f"{VARIABLE}=native needs the package skysail-transport: {problem}; `make transport` "
            "builds it, and `auto` does without it"
        )
    is_native = name != "grpc" and not problem
    extra = {"transport": "native" if is_native else "grpc", "setting": name}
    log.info("transport", extra=extra | ({"native": problem} if problem else {}))
    return is_native


def _problem_with_native() -> str:
    """Return why the native transport cannot be used here; nothing if it can."""
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
        max_connection_age_s: Age at which a client is told to connect again, a tenth more or less
            by chance; its calls under way end first. 0 for never.

    Raises:
        FailedPrecondition: it is asked for by name and not installed.
    """
    if uses_native(name):
        # Only here: it may not be installed.
        from skysail_common.rpc.native.transport import NativeTransport

        return NativeTransport(max_message_bytes, max_connection_age_s)
    return GrpcTransport(max_message_bytes, max_connection_age_s)
