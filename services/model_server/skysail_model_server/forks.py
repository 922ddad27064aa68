"""Processes that user code forks: they hold no connection of the replica, and never act as it."""

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
    """Close what this process inherited of the sockets at an address and of their connections.

    A connection that a fork holds does not end with the replica, and an address that it holds
    cannot be bound again.

    Args:
        listen_address: host:port or unix:/path that the replica listens on.
    """
    for descriptor in map(int, os.listdir(_DESCRIPTORS)):
        # That of the directory itself is closed by now.
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
    # A connection has the port of what listens, and perhaps a more precise host.
    return isinstance(address, tuple) and address[1] == split_host_port(listen_address)[1]


def end_fork(error: BaseException | None) -> NoReturn:
    """End this process, a fork in which user code has returned or raised, as a script would."""
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
