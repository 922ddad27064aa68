"""A batch, the answers to its queries, and the replica that computes it."""

from collections.abc import Sequence
from typing import Protocol

from skysail_common.clock import NEVER
from skysail_common.errors import SkysailError
from skysail_frontend.core.query import Query

_STALLED_FACTOR = 10.0
_MIN_STALLED_S = 5.0
"""A batch that is overdue for so long, and for so many times what it was to take, is stalled. A
pause of the machine is no stall: while one replica is left, refusing is worse than waiting."""


class QueryError:
    """Why one query of a batch has no outputs."""

    __slots__ = ("error",)

    def __init__(self, error: SkysailError) -> None:
        self.error = error


class QueryOutputs:
    """The outputs of one query of a batch, in the order of the signature."""

    __slots__ = ("data", "shapes")

    def __init__(self, data: Sequence[bytes], shapes: Sequence[tuple[int, ...]]) -> None:
        self.data = data
        self.shapes = shapes


class Batch:
    """Queries that were sent to a replica together."""

    __slots__ = ("batch_id", "expected_s", "overdue_at", "queries", "rows", "sent")

    def __init__(self, batch_id: int, queries: list[Query], sent: float) -> None:
        self.batch_id = batch_id
        self.queries = queries
        self.rows = sum([query.rows for query in queries])
        self.sent = sent
        self.expected_s = 0.0
        self.overdue_at = NEVER

    def is_stalled(self, now: float) -> bool:
        """Return whether the batch is overdue for so long that its replica may never answer."""
        return now - self.overdue_at > max(_MIN_STALLED_S, _STALLED_FACTOR * self.expected_s)


class BatchReplica(Protocol):
    """A replica as the core sees it."""

    container_id: str
    free_at: float
    """Instant at which it is expected to have computed all that it has; the core sets it."""

    @property
    def num_in_flight(self) -> int:
        """Batches that it has and has not answered."""
        ...

    @property
    def is_ready(self) -> bool:
        """True while batches may be sent to it."""
        ...

    def send(self, batch: Batch) -> None:
        """Send a batch; leaves in this turn, or is lost if it cannot be sent."""
        ...
