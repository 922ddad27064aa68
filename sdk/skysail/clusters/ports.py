"""Checks of the ports of a cluster, before any service that needs them is started."""

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack

from skysail_common.errors import FailedPrecondition
from skysail_common.process.sockets import family_of


def free_port(host: str) -> int:
    """Return a port that was free a moment ago; the caller must be able to try another one."""
    with _listening(host, 0) as probe:
        return int(probe.getsockname()[1])


def check_ports(addresses: Mapping[str, tuple[str, int]]) -> None:
    """Check that every port can be bound.

    Args:
        addresses: Hosts and ports by the flag of each port, such as `--grpc-port`; port 0 is not
            checked.

    Raises:
        FailedPrecondition: a port cannot be bound; the message names its flag.
    """
    with ExitStack() as listening:
        for flag, (host, port) in addresses.items():
            if not port:
                continue
            try:
                # Bind all ports at once, because two of them may be the same.
                listening.enter_context(_listening(host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    text = f"port {port} of {host} is in use; choose another with {flag}"
                else:
                    text = f"cannot listen on {host}, {flag} {port}: {error.strerror}"
                raise FailedPrecondition(text) from None


def _listening(host: str, port: int) -> socket.socket:
    # Services that listen on `::` take the port of IPv4 too.
    is_dual = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=family_of(host), dualstack_ipv6=is_dual)
