"""Errors of calls that neither management nor a frontend answered."""

import grpc
import grpc.aio

from skysail.settings import ClientSettings
from skysail.tls import ClientTls, tls_failure
from skysail_common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    SkysailError,
    Unavailable,
    Unsupported,
)
from skysail_common.process.sockets import is_loopback, split_host_port
from skysail_common.rpc.management_access import ManagementAccess
from skysail_common.rpc.statuses import from_rpc_error, is_named

_NOT_CONNECTED = "failed to connect"
"""Text of gRPC for a connection that was never established."""

_NOT_WRITTEN = "Internal error from Core"


class ManagementRestarting(Unavailable):
    """Management is down, and its supervisor restarts it."""


def management_error(
    error: grpc.aio.AioRpcError, endpoint: str, access: ManagementAccess
) -> SkysailError:
    """Return the error that management raised, or one about a missing answer."""
    if is_named(error):
        return from_rpc_error(error)
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNIMPLEMENTED or "http" in details.lower():
        return Unsupported(
            f"{endpoint} is not a management endpoint, or one of an older Skysail; management "
            "listens on port 8003 by default"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        if _NOT_CONNECTED in details:
            if "Connection refused" not in details and not endpoint.startswith("unix:"):
                return Unavailable(_no_connection(endpoint, access, details))
            return _refused(endpoint)
        return Unavailable(f"cannot reach management at {endpoint}: {details}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"management at {endpoint} did not answer in time")
    return from_rpc_error(error)


def _refused(endpoint: str) -> Unavailable:
    if (process := ClientSettings().supervisor_of(endpoint)) != 0:
        return ManagementRestarting(
            f"management at {endpoint} is being restarted by its supervisor (process {process}); try "
            "again, or see the log of the cluster if that lasts"
        )
    if endpoint.startswith("unix:") or is_loopback(split_host_port(endpoint)[0]):
        return Unavailable(
            f"no management runs at {endpoint}; start a cluster with 'skysail up', or if one runs, "
            "its log says why"
        )
    return Unavailable(
        f"cannot connect to management at {endpoint}: connection refused; check that management "
        "runs there, and that no firewall or network policy is in between"
    )


def _no_connection(endpoint: str, access: ManagementAccess, details: str) -> str:
    reason = details.rpartition("last error: ")[2]
    if access.ca_file is None:
        advice = "if it speaks TLS, give management_tls_ca_file or SKYSAIL_MANAGEMENT_TLS_CA_FILE"
    else:
        advice = f"it must speak TLS with a certificate of an authority in {access.ca_file}"
    return f"cannot connect to management at {endpoint}: {reason}; {advice}"


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Return whether an established connection broke during a call."""
    details = error.details() or ""
    if is_named(error):
        return False
    if error.code() is grpc.StatusCode.INTERNAL:
        # A request cannot be written before gRPC knows the status of the broken call.
        return details.startswith(_NOT_WRITTEN)
    return error.code() is grpc.StatusCode.UNAVAILABLE and _NOT_CONNECTED not in details


def frontend_error(endpoint: str, tls: ClientTls | None) -> SkysailError:
    """Return the error for an endpoint at which no frontend accepts a connection.

    The function connects once more, because gRPC has no stable text for a failed TLS handshake. It may
    block for some seconds.
    """
    reason = tls_failure(endpoint, tls)
    if reason is not None:
        return FailedPrecondition(reason)
    return Unavailable(
        f"no frontend is reached at {endpoint}; if frontends are reached elsewhere from here, give "
        "query_endpoint, --query-endpoint or SKYSAIL_QUERY_ENDPOINT"
    )
