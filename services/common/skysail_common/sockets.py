"""Addresses to listen on."""

import socket

from skysail_common.errors import FailedPrecondition


def cannot_listen(address: str) -> FailedPrecondition:
    """Return the error to raise where an address cannot be bound."""
    return FailedPrecondition(
        f"cannot listen on {address}: it is in use by another process or not an address of this "
        "machine"
    )


def bound_socket(host: str, port: int, *, shares_port: bool = False) -> socket.socket:
    """Return a TCP socket that has the address and does not listen yet.

    Args:
        host: Address of this machine.
        port: Port; 0 for any that is free.
        shares_port: True to have it beside others who share it too.

    Raises:
        FailedPrecondition: it is in use, or not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares_port:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise cannot_listen(f"{host}:{port}") from error
    return bound
