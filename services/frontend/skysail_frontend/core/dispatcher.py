"""The core: accepts queries, sends batches, settles queries. It knows neither gRPC nor HTTP.

The core works in turns of the event loop. A query that arrives during a turn only schedules the
dispatch of its version. At the end of the turn each scheduled version forms batches from all of its
queries.

    submit ──► queue ──┐                          ┌──► settle
                       ├─ end of turn: batches ──►│ replica ──► result
    result ──► settle ─┘                          └──► lost: requeue
"""

import logging
from collections.abc import Sequence
from itertools import count

from skysail_common.clock import Clock
from skysail_common.errors import (
    ModelFailed,
    ModelNotFound,
    NoReadyReplica,
    SkysailError,
)
from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.batch import Batch, QueryError, QueryOutputs
from skysail_frontend.core.batching.batcher import LAST_ATTEMPT
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.coalescing import Coalescing
from skysail_frontend.core.deadlines import Deadlines
from skysail_frontend.core.event_loop import EventLoop
from skysail_frontend.core.prediction_cache import PredictionCache
from skysail_frontend.core.query import Outcome, Prediction, Query
from skysail_frontend.core.routes import NoRoutes, RouteTable, ServedVersion
from skysail_frontend.core.settlement import Settlement
from skysail_frontend.core.shedding import NO_MODEL, scaled_to_zero_error
from skysail_frontend.core.splitting import split_query
from skysail_frontend.core.statistics import Statistics
from skysail_frontend.core.version_dispatcher import VersionDispatcher

log = logging.getLogger(__name__)

_LINGER_S = 0.002
"""Longest time for which successive turns of a busy event loop count as one turn."""

_BUSY_TURN_S = 0.0001
"""Shortest turn in which the event loop counts as busy."""


class Dispatcher:
    """The model versions that a frontend serves, and the deadlines of all queries."""

    def __init__(
        self,
        clock: Clock,
        loop: EventLoop,
        max_queue_size: int,
        default_timeout_s: float,
        cache: PredictionCache | None = None,
        max_queue_bytes: int = 1 << 30,
    ) -> None:
        """Starts without versions or routes.

        Args:
            clock: Time.
            loop: Provides the ends of turns and timers.
            max_queue_size: Limit of queued rows for a version whose model sets none.
            default_timeout_s: Time limit of a query that has no other.
            cache: Holds predictions of the versions that enable caching.
            max_queue_bytes: Limit for the inputs of the unsettled queries of all versions.
        """
        self.clock = clock
        self.table: RouteTable = NoRoutes()
        self.statistics = Statistics()
        self.coalescing = Coalescing(PredictionCache(0) if cache is None else cache)
        self.default_timeout_s = default_timeout_s
        self._loop = loop
        self._max_queue_size = max_queue_size
        self._max_bytes = max_queue_bytes
        self._versions: dict[str, VersionDispatcher] = {}
        """Versions by identity: a query only reaches the content that it was validated for."""
        self._scheduled: list[VersionDispatcher] = []
        self._scheduled_at = 0.0
        self._turn_at = 0.0
        self._num_submitted = 0
        self._num_seen = 0
        self._batch_ids = count(1)
        self._settlement = Settlement(
            clock, self.statistics, self.coalescing, self._versions, self.schedule_dispatch
        )
        self._deadlines = Deadlines(clock, loop, self._settlement.expire)

    def apply(self, table: RouteTable) -> None:
        """Replace the route table; queued queries of a removed version fail."""
        self.table = table
        self.statistics.keep_applications(table.applications)
        wanted = {served.identity: served for served in table.versions.values()}
        for identity in self._versions.keys() - wanted.keys():
            self._remove_version(self._versions.pop(identity))
        for identity, served in wanted.items():
            known = self._versions.get(identity)
            if known is None:
                self._versions[identity] = VersionDispatcher(
                    served,
                    self.clock,
                    self._loop,
                    self._batch_ids,
                    self._max_queue_size,
                    self._settlement.shed,
                    self._settlement.promote_follower,
                    self.statistics.version(served.name),
                )
            else:
                known.update(served)
                self.schedule_dispatch(known)
        for version in self._versions.values():
            if version.served.num_replicas == 0 and len(version.queue):
                self._fail_queued(version, scaled_to_zero_error(version.served.name))

    def _remove_version(self, gone: VersionDispatcher) -> None:
        name, identity = gone.served.name, gone.served.identity
        gone.stop()
        self.statistics.forget(name)
        self.coalescing.forget(identity)
        error: SkysailError
        if name in self.table.versions:
            error = NoReadyReplica(
                f"cannot answer the query: '{name}' was redeployed with other content while the "
                "query was queued; retry"
            )
        else:
            error = ModelNotFound(f"Request for unknown model: '{name}' was undeployed")
        self._fail_queued(gone, error)

    def _fail_queued(self, version: VersionDispatcher, error: SkysailError) -> None:
        now = self.clock()
        while (query := version.queue.pop()) is not None:
            # A query in flight is settled by its replica or at its deadline. The other parts of a
            # large query were settled together with the first one.
            if not query.num_in_flight and not query.is_settled:
                self._settlement.fail(query, Outcome.DEFAULT_NO_REPLICA, NO_MODEL, error, now)

    @property
    def num_unsettled(self) -> int:
        """Number of submitted queries that are neither settled nor cancelled."""
        return self._settlement.num_unsettled

    @property
    def unsettled_bytes(self) -> int:
        """Size of the inputs of the unsettled queries."""
        return self._settlement.unsettled_bytes

    def version(self, name: ModelVersion) -> VersionDispatcher | None:
        """Return the dispatcher of a version, or None if the version is not deployed."""
        served = self.table.versions.get(name)
        return self._versions.get(served.identity) if served else None

    def is_ready(self, name: ModelVersion) -> bool:
        """Return whether a version has a replica that accepts batches."""
        version = self.version(name)
        return version is not None and version.num_ready > 0

    def submit(self, query: Query) -> None:
        """Submit a query; it is settled by its deadline, possibly before this call returns."""
        now = self.clock()
        settlement = self._settlement
        settlement.num_unsettled += 1
        settlement.unsettled_bytes += query.input_bytes
        self._num_submitted += 1
        version = self._versions.get(query.version.identity) if query.version else None
        if version is None or version.served.num_replicas == 0:
            settlement.refuse_without_replica(query, version, now)
            return
        serving = version.served.serving
        if (
            settlement.unsettled_bytes > self._max_bytes
            and settlement.unsettled_bytes > query.input_bytes
        ):
            settlement.shed(version, query, ShedReason.MEMORY_FULL, now)
        elif query.rows > serving.max_batch_size:
            self._submit_parts(version, query, now)
        elif serving.cache_ttl_s and self._try_answer_from_cache(version, query, now):
            return
        elif self._try_admit(version, query, now):
            self._enqueue(version, query, now)

    def _submit_parts(self, version: VersionDispatcher, query: Query, now: float) -> None:
        """Admit all parts of a large query, or shed the query as a whole."""
        if not self._try_admit(version, query, now):
            return
        serving = version.served.serving
        query.on_joined = self._settlement.settle_joined
        parts = split_query(query, serving.max_batch_size)
        # The parts are counted first because one that fails settles the others too.
        self._settlement.num_unsettled += len(parts)
        for part in parts:
            if part.is_settled:
                continue
            if not (serving.cache_ttl_s and self._try_answer_from_cache(version, part, now)):
                self._enqueue(version, part, now)

    def max_query_rows(self, served: ServedVersion) -> int:
        """Return the most rows that a query may have; one that exceeds a batch is split."""
        serving = served.serving
        return max(serving.max_batch_size, serving.max_queue_size or self._max_queue_size)

    def _try_answer_from_cache(self, version: VersionDispatcher, query: Query, now: float) -> bool:
        """Answer a query from the cache or coalesce it; return False if it must be computed."""
        if query.application is not None and not query.application.uses_cache:
            return False
        entry = self.coalescing.look_up(query, now)
        if entry is not None:
            self.statistics.count_cache_result(query, "hit")
            self._settlement.answer(query, Prediction(Outcome.OK, entry.data, entry.shapes), now)
            return True
        leader = self.coalescing.leader(query)
        if (
            leader is None
            or query.deadline <= now
            or not version.answers_in_time(leader, query, now)
        ):
            becomes_leader = leader is not None and self._outranks_leader(query, leader, now)
            self.statistics.count_cache_result(query, "shared" if becomes_leader else "miss")
            return False
        if not query.is_part and version.batcher.is_full(query, self._follower_rows(query)):
            self._settlement.shed(version, query, ShedReason.QUEUE_FULL, now)
        else:
            self.statistics.count_cache_result(query, "shared")
            self.coalescing.add_follower(query)
            self._deadlines.watch(query, now)
        return True

    @staticmethod
    def _outranks_leader(query: Query, leader: Query, now: float) -> bool:
        """Return whether a new query replaces its leader, which then becomes a follower."""
        return leader.is_queued and not leader.num_in_flight and query.deadline > now

    def _follower_rows(self, query: Query) -> int:
        assert query.version is not None
        return self.coalescing.follower_rows[query.version.identity]

    def _try_admit(self, version: VersionDispatcher, query: Query, now: float) -> bool:
        """Return whether a query may be queued; shed it if not."""
        follower_rows = self._follower_rows(query) if self.coalescing.follower_rows else 0
        reason = version.refusal(query, now, follower_rows)
        if reason is None:
            return True
        # The arrival rate includes queries that are shed.
        version.batcher.rate.observe(query.rows, now)
        if reason is ShedReason.NO_REPLICA:
            version.statistics.sheds[reason] += 1
            self._settlement.refuse_without_replica(query, version, now)
        else:
            self._settlement.shed(version, query, reason, now)
        return False

    def _enqueue(self, version: VersionDispatcher, query: Query, now: float) -> None:
        self._deadlines.watch(query, now)
        if query.cache_key is not None:
            leader = self.coalescing.set_leader(query)
            if leader is not None and leader.is_queued and not leader.num_in_flight:
                # The new query is more urgent; its answer also settles the former leader.
                version.queue.remove(leader)
                self.coalescing.add_follower(leader)
        version.batcher.push(query)
        self.schedule_dispatch(version)

    def cancel(self, query: Query) -> None:
        """Cancel a query whose caller is gone."""
        self._settlement.cancel(query)

    def schedule_dispatch(self, version: VersionDispatcher) -> None:
        """Schedule the dispatch of a version for the end of this turn."""
        if not version.is_scheduled:
            version.is_scheduled = True
            if not self._scheduled:
                self._scheduled_at = self._turn_at = self.clock()
                self._num_seen = self._num_submitted
                self._loop.call_soon(self._dispatch_scheduled)
            self._scheduled.append(version)

    def _dispatch_scheduled(self) -> None:
        now = self.clock()
        is_busy = self._num_submitted != self._num_seen or now - self._turn_at > _BUSY_TURN_S
        if is_busy and now - self._scheduled_at < _LINGER_S:
            # A busy event loop may bring more queries. Without this delay, batches would be small
            # with a transport that delivers few calls in each turn.
            self._num_seen, self._turn_at = self._num_submitted, now
            self._loop.call_soon(self._dispatch_scheduled)
            return
        scheduled, self._scheduled = self._scheduled, []
        for version in scheduled:
            version.is_scheduled = False
            try:
                version.dispatch(now)
            except Exception:
                log.exception("dispatch failed", extra={"version": version.served.name})

    def complete_batch(
        self,
        version: VersionDispatcher,
        batch: Batch,
        answers: Sequence[QueryOutputs | QueryError],
        compute_s: float,
        wait_s: float,
    ) -> None:
        """Settle the queries of a batch that a replica answered.

        Args:
            version: Version of the batch.
            batch: The batch.
            answers: Answer to each query, in the order of the batch.
            compute_s: Time in the user's function.
            wait_s: Time that the batch was queued in the model server.
        """
        now = self.clock()
        is_whole = QueryError not in map(type, answers)
        version.complete_batch(batch, compute_s, wait_s, is_whole=is_whole, now=now)
        if version.has_work:
            self.schedule_dispatch(version)
        settlement = self._settlement
        for query, answer in zip(batch.queries, answers, strict=True):
            if query.is_queued:
                settlement.dequeue(query)
            if query.cache_key is not None:
                settlement.answer_followers(query, answer, now)
            if query.is_settled:
                continue
            if isinstance(answer, QueryError):
                error = answer.error
                explanation = f"the model failed: {error.message}"
                settlement.fail(query, Outcome.DEFAULT_MODEL_ERROR, explanation, error, now)
                continue
            prediction = Prediction(Outcome.OK, answer.data, answer.shapes)
            prediction.queue_s = query.dispatched - query.arrival
            prediction.compute_s = compute_s
            prediction.batch_wait_s = max(0.0, now - query.dispatched - compute_s)
            settlement.answer(query, prediction, now)

    def requeue_batches(
        self, version: VersionDispatcher, batches: Sequence[Batch], has_died: bool
    ) -> None:
        """Requeue the queries of lost batches, with their old deadlines.

        Args:
            version: Version of the batches.
            batches: The batches, oldest first.
            has_died: True if the replica ended unexpectedly. A query that was computed each time
                that a replica died fails after some attempts, because it may be the cause.
        """
        now = self.clock()
        version.remove_lost(batches, has_died, now)
        served = version.served
        is_gone = served.num_replicas == 0 or self._versions.get(served.identity) is not version
        for query in [query for batch in batches for query in batch.queries]:
            if query.is_queued or query.num_in_flight:
                continue
            if query.is_settled:
                self._settlement.replace_leader(query, now)
                continue
            if query.attempts > LAST_ATTEMPT:
                text = f"{query.attempts} replicas died or hung while answering this query"
                self._settlement.answer_followers(query, QueryError(ModelFailed(text)), now)
                self._settlement.fail(
                    query, Outcome.DEFAULT_MODEL_ERROR, text, ModelFailed(text), now
                )
            elif is_gone:
                error = NoReadyReplica(f"model '{served.name}' has no replica left")
                self._settlement.fail(query, Outcome.DEFAULT_NO_REPLICA, NO_MODEL, error, now)
            else:
                version.batcher.requeue(query)
        self.schedule_dispatch(version)
