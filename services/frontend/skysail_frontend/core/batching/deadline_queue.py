"""The queries that wait for one model version, the most urgent first."""

import heapq
from itertools import count

from skysail_frontend.core.query import Query

_MIN_COMPACTION = 64


class DeadlineQueue:
    """A priority queue that counts rows.

    The order is that of the deadlines; a priority moves a query as if its deadline were so much
    earlier or later, so that what has waited long enough comes before whatever is urgent but new.
    Queries of equal rank leave in the order in which they came. A query that was settled or
    removed is skipped; every other leaves exactly once.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Query]] = []
        self._arrivals = count()
        self.num_queries = 0
        """Queries that wait."""
        self.num_rows = 0
        """Rows of the queries that wait."""

    def __len__(self) -> int:
        return self.num_queries

    def push(self, query: Query, offset_s: float = 0.0) -> None:
        """Have a query wait.

        Args:
            query: Waits nowhere else.
            offset_s: Rank it as if its deadline were so much later; less than 0 for earlier.
        """
        query.is_queued = True
        heapq.heappush(self._heap, (query.deadline + offset_s, next(self._arrivals), query))
        self.num_queries += 1
        self.num_rows += query.rows

    def peek(self) -> Query | None:
        """Return the most urgent query, which goes on waiting."""
        heap = self._heap
        while heap:
            query = heap[0][2]
            if query.is_queued:
                return query
            heapq.heappop(heap)
        return None

    def pop(self) -> Query | None:
        """Return the most urgent query, which waits no longer."""
        heap = self._heap
        while heap:
            query = heapq.heappop(heap)[2]
            if query.is_queued:
                self._discard(query)
                return query
        return None

    def remove(self, query: Query) -> None:
        """Have a query wait no longer; nothing happens if it does not wait."""
        if query.is_queued:
            self._discard(query)
            # The entry goes when it comes to the top, or with many others at once.
            if len(self._heap) > max(_MIN_COMPACTION, 2 * self.num_queries):
                self._heap = [entry for entry in self._heap if entry[2].is_queued]
                heapq.heapify(self._heap)

    def _discard(self, query: Query) -> None:
        query.is_queued = False
        self.num_queries -= 1
        self.num_rows -= query.rows
