"""Other servers for comparison on the same machine, each in its own virtual environment."""

from collections.abc import Callable
from dataclasses import dataclass

MODELS = ("noop", "lr", "rf")
"""Models of each peer: input `x` FP32 [-1, 64], output `output`."""

MAX_BATCH_SIZE = 64


class PeerUnavailable(Exception):
    """A peer cannot be installed on this machine."""


class PeerFailed(Exception):
    """A peer did not become ready, or gave a wrong answer."""


@dataclass(frozen=True)
class Peer:
    """A server that is ready to serve every model by the Open Inference Protocol."""

    name: str
    grpc_endpoint: str
    """`127.0.0.1:port`."""
    http_endpoint: str
    """`127.0.0.1:port`."""
    pids: Callable[[], list[int]]
    """Returns the processes of the server at this instant, with those that it started."""
