"""A batch, the answers to its queries, and the replica that computes them."""

from collections.abc import Sequence
from typing import Protocol

from skysail_common.clock import NEVER
from skysail_common.errors import SkysailError
from skysail_frontend.core.query import Query

_STALLED_FACTOR = 10.0
_MIN_STALLED_S = 5.0
"""A batch is stalled if it is overdue by both bounds: this time, and this multiple of its expected
latency. Both are long because a pause of the machine also delays batches, and it is better to wait
for the last replica than to refuse queries."""


class QueryError:
    """The error of one query of a batch."""

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
        """Return whether the batch is so long overdue that its replica may never answer."""
        return now - self.overdue_at > max(_MIN_STALLED_S, _STALLED_FACTOR * self.expected_s)


class BatchReplica(Protocol):
    """The connection to a replica as the core uses it."""

    container_id: str
    free_at: float
    """Instant at which the replica is expected to finish its batches in flight; set by the core."""

    @property
    def num_in_flight(self) -> int:
        """Number of batches in flight."""
        ...

    @property
    def is_ready(self) -> bool:
        """True while the replica accepts batches."""
        ...

    def send(self, batch: Batch) -> None:
        """Send a batch within this turn; a batch that cannot be sent is lost."""
        ...
