"""The queue of one model version, the most urgent query first."""

import heapq
from itertools import count

from skysail_frontend.core.query import Query

_MIN_COMPACTION = 64


class DeadlineQueue:
    """A priority queue of queries, ordered by deadline, that counts rows.

    A priority shifts a query as if its deadline were earlier or later. A query that was queued long
    enough therefore precedes a new query of higher priority. Queries of equal rank leave in the
    order of arrival. A removed query is skipped; every other query leaves exactly once.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Query]] = []
        self._arrivals = count()
        self.num_queries = 0
        """Number of queued queries."""
        self.num_rows = 0
        """Rows of the queued queries."""

    def __len__(self) -> int:
        return self.num_queries

    def push(self, query: Query, offset_s: float = 0.0) -> None:
        """Add a query.

        Args:
            query: Query that is in no queue.
            offset_s: Shift of the deadline that decides the rank; less than 0 to leave earlier.
        """
        query.is_queued = True
        heapq.heappush(self._heap, (query.deadline + offset_s, next(self._arrivals), query))
        self.num_queries += 1
        self.num_rows += query.rows

    def peek(self) -> Query | None:
        """Return the most urgent query without removing it, or None."""
        heap = self._heap
        while heap:
            query = heap[0][2]
            if query.is_queued:
                return query
            heapq.heappop(heap)
        return None

    def pop(self) -> Query | None:
        """Remove and return the most urgent query, or None."""
        heap = self._heap
        while heap:
            query = heapq.heappop(heap)[2]
            if query.is_queued:
                self._discard(query)
                return query
        return None

    def remove(self, query: Query) -> None:
        """Remove a query; do nothing if it is not queued."""
        if query.is_queued:
            self._discard(query)
            # The heap keeps the entry until it reaches the top, or until enough are stale.
            if len(self._heap) > max(_MIN_COMPACTION, 2 * self.num_queries):
                self._heap = [entry for entry in self._heap if entry[2].is_queued]
                heapq.heapify(self._heap)

    def _discard(self, query: Query) -> None:
        query.is_queued = False
        self.num_queries -= 1
        self.num_rows -= query.rows
