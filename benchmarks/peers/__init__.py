"""Other servers, for comparison on the same machine; each in an environment of its own."""

from collections.abc import Callable
from dataclasses import dataclass

MODELS = ("noop", "lr", "rf")
"""What each peer serves: input `x` FP32 [-1, 64], output `output`."""

MAX_BATCH_SIZE = 64


class PeerUnavailable(Exception):
    """A peer cannot be installed on this machine."""


class PeerFailed(Exception):
    """A peer did not become ready, or answered wrongly."""


@dataclass(frozen=True)
class Peer:
    """A server that is ready to answer the Open Inference Protocol for every model."""

    name: str
    grpc_endpoint: str
    """`127.0.0.1:port`."""
    http_endpoint: str
    """Likewise."""
    pids: Callable[[], list[int]]
    """Tells its processes of this moment: the server's and those it started."""
