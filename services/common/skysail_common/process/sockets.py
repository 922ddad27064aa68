"""Socket addresses: joining, splitting, checking and binding."""

import socket
from ipaddress import ip_address

from skysail_common.errors import FailedPrecondition

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def join_host_port(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(endpoint: str) -> tuple[str, int]:
    """Return the host, without the brackets of an IPv6 address, and the port.

    Raises:
        ValueError: `endpoint` has no port.
    """
    host, _, port = endpoint.rpartition(":")
    return without_brackets(host), int(port)


def without_brackets(host: str) -> str:
    """Return a host in the form of the socket API, such as `::1` for `[::1]`."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def local_endpoint(endpoint: str) -> str:
    """Return the endpoint by which this machine reaches a listener; loopback for a wildcard."""
    host, port = split_host_port(endpoint)
    return join_host_port(_LOOPBACK.get(host, host), port)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address to listen on."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_management_host(
    host: str, *, is_guarded: bool, is_insecure: bool, can_be_guarded: bool = True
) -> None:
    """Check that management may listen on an address.

    Args:
        host: The address.
        is_guarded: True if management requires TLS and a token.
        is_insecure: True if an operator declares that a firewall or policy keeps callers away.
        can_be_guarded: False if management cannot use TLS, so that only `is_insecure` opens it.

    Raises:
        FailedPrecondition: any caller on the network could run code.
    """
    if not (is_loopback(host) or is_guarded or is_insecure):
        locks = (
            "give it TLS and a token (SKYSAIL_MANAGEMENT_TLS_CERTIFICATE_FILE, "
            "SKYSAIL_MANAGEMENT_TLS_KEY_FILE, SKYSAIL_MANAGEMENT_TOKEN_FILE), or "
        )
        raise FailedPrecondition(
            f"cannot open management on {host}: every caller there could run code on this machine; "
            f"{locks if can_be_guarded else ''}pass --insecure if a firewall or a network policy "
            "keeps callers away"
        )


def family_of(host: str) -> socket.AddressFamily:
    """Return the family of an address to listen on."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def cannot_listen(address: str) -> FailedPrecondition:
    """Return the error for an address that cannot be bound."""
    return FailedPrecondition(
        f"cannot listen on {address}: it is in use by another process or not an address of this "
        "machine"
    )


def bound_socket(host: str, port: int, *, shares_port: bool = False) -> socket.socket:
    """Return a TCP socket that is bound to an address; the caller makes it listen.

    Args:
        host: Address of this machine; `::` includes the IPv4 addresses.
        port: Port; 0 for any free port.
        shares_port: True to share the port with other processes (SO_REUSEPORT).

    Raises:
        FailedPrecondition: the address is in use, or not an address of this machine.
    """
    bound = socket.socket(family_of(host), socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise cannot_listen(join_host_port(host, port)) from error
    return bound
