"""Looks at the ports of a cluster before anything is started that needs them."""

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack

from skysail_common.errors import FailedPrecondition


def free_port(host: str) -> int:
    """Return a port that was free a moment ago: who uses it must be able to try another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as probe:
        return int(probe.getsockname()[1])


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Return if every port can be listened on.

    Args:
        host: Address to listen on.
        ports: Ports by the flag that names each, such as `--grpc-port`; 0 is not looked at.

    Raises:
        FailedPrecondition: one cannot; the message names its flag.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as listening:
        for flag, port in ports.items():
            if not port:
                continue
            try:
                # All at once: two of them may be the same.
                listening.enter_context(socket.create_server((host, port), family=family))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    text = f"port {port} of {host} is in use; choose another with {flag}"
                else:
                    text = f"cannot listen on {host}, {flag} {port}: {error.strerror}"
                raise FailedPrecondition(text) from None
