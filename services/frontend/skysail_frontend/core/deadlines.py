"""The deadlines of all queries, watched by one timer."""

import heapq
import logging
from collections.abc import Callable
from itertools import count

from skysail_common.clock import Clock
from skysail_frontend.core.event_loop import EventLoop, TimerHandle
from skysail_frontend.core.query import Query

log = logging.getLogger(__name__)

_MIN_COMPACTION = 1024
_GRAIN_S = 0.0005
"""Resolution of timers, which may fire early: deadlines within it are due now."""


class Deadlines:
    """The unsettled queries, each of which expires at its deadline."""

    def __init__(
        self, clock: Clock, loop: EventLoop, expire: Callable[[Query, float], None]
    ) -> None:
        """Starts without deadlines.

        Args:
            clock: Time.
            loop: Provides the timer.
            expire: Called with each query that expires and the present instant.
        """
        self._clock = clock
        self._loop = loop
        self._expire = expire
        self._heap: list[tuple[float, int, Query]] = []
        self._arrivals = count()
        self._timer: TimerHandle | None = None
        self._timer_at = 0.0
        self._compact_at = _MIN_COMPACTION

    def watch(self, query: Query, now: float) -> None:
        """Expire a query at its deadline unless it is settled before."""
        heapq.heappush(self._heap, (query.deadline, next(self._arrivals), query))
        if len(self._heap) > self._compact_at:
            self._compact()
        if self._timer is None or query.deadline < self._timer_at:
            self._arm(query.deadline, now)

    def _compact(self) -> None:
        """Remove settled queries, whose deadlines may be far in the future."""
        # The list stays the same object because `_on_timer` may be using it: a callback at a
        # deadline may submit a query.
        self._heap[:] = [entry for entry in self._heap if not entry[2].is_settled]
        heapq.heapify(self._heap)
        self._compact_at = max(_MIN_COMPACTION, 2 * len(self._heap))

    def _arm(self, instant: float, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = instant
        self._timer = self._loop.call_later(max(0.0, instant - now), self._on_timer)

    def _on_timer(self) -> None:
        now = self._clock()
        heap = self._heap
        try:
            while heap and (heap[0][2].is_settled or heap[0][0] <= now + _GRAIN_S):
                query = heapq.heappop(heap)[2]
                if not query.is_settled:
                    self._try_expire(query, now)
        finally:
            self._timer = None
            if heap:
                self._arm(heap[0][0], now)

    def _try_expire(self, query: Query, now: float) -> None:
        try:
            self._expire(query, now)
        except Exception:
            # The other deadlines depend on the same timer, which must be set again.
            log.exception("query expiry failed")
