"""gRPC over HTTP/2 from one epoll, handed to Python in batches; see `Engine`."""

from skysail_transport._engine import (
    ACCEPTED,
    CANCELLED,
    CLOSED,
    HALF_CLOSED,
    MESSAGE,
    OPENED,
    WRITABLE,
    ClientTls,
    Engine,
    Limits,
    Metadata,
    ServerTls,
    __version__,
)

__all__ = [
    "ACCEPTED",
    "CANCELLED",
    "CLOSED",
    "HALF_CLOSED",
    "MESSAGE",
    "OPENED",
    "WRITABLE",
    "ClientTls",
    "Engine",
    "Limits",
    "Metadata",
    "ServerTls",
    "__version__",
]
