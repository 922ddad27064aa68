"""Forks by user code, which must hold no connection of the replica and never act as the replica."""

import os
import socket
import sys
import traceback
from contextlib import suppress
from stat import S_ISSOCK
from typing import NoReturn

from skysail_common.process.sockets import split_host_port

_DESCRIPTORS = "/dev/fd"
_UNIX = "unix:"


def close_connections(listen_address: str) -> None:
    """Close the inherited sockets of an address, both listeners and connections.

    A connection that a fork holds does not end with the replica, and its address cannot be bound
    again.

    Args:
        listen_address: Listen address of the replica, as host:port or unix:/path.
    """
    for descriptor in map(int, os.listdir(_DESCRIPTORS)):
        # The listing contains the descriptor of the directory itself, which is closed now.
        with suppress(OSError):
            if S_ISSOCK(os.fstat(descriptor).st_mode) and _is_at(descriptor, listen_address):
                os.close(descriptor)


def _is_at(descriptor: int, listen_address: str) -> bool:
    inherited = socket.socket(fileno=descriptor)
    try:
        address = inherited.getsockname()
    finally:
        inherited.detach()
    if listen_address.startswith(_UNIX):
        return bool(address == listen_address.removeprefix(_UNIX))
    # A connection has the port of its listener, but may have a more precise host.
    return isinstance(address, tuple) and address[1] == split_host_port(listen_address)[1]


class ForkGuard:
    """A guard that ends forks of the process that created it."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def end_here(self, error: BaseException | None = None) -> None:
        """End this process if it is a fork, because a fork must not act as the replica.

        Args:
            error: The error with which the user code ended; None if it returned.
        """
        if os.getpid() != self._pid:
            end_fork(error)


def end_fork(error: BaseException | None) -> NoReturn:
    """End this process, a fork whose user code has returned or raised, like a script."""
    status = 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
        status = 1
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
