"""Coalescing against a naive reference, with random events in random order.

The reference knows no leaders. It knows what was asked, with which inputs and by when, and demands
of the dispatcher what callers may expect: the right answer, once and in time, computed by somebody
while a replica can, within the bounds of the queue, at a depth of the stack that callers do not add
to, whatever other callers' callbacks raise.
"""

import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skysail_common.errors import ModelFailed
from skysail_common.serving_options import ServingOptions
from skysail_frontend.core.batch import QueryError, QueryOutputs
from skysail_frontend.core.prediction_cache import PredictionCache
from skysail_frontend.core.query import Outcome, Prediction, Query
from skysail_frontend.core.routes import ServedVersion
from skysail_testing.examples import examples
from unit.frontend.parts import FakeReplica, Frontend, application, served

MAX_QUEUE_ROWS = 12
MAX_BATCH_ROWS = 3
COMPUTE_S = 0.05
MAX_DEPTH = 30
"""Most frames between a rule and a settlement; a recursion over followers needs more."""

APPLICATIONS = (
    None,
    None,
    None,
    application("default", "m:1", default=[0.0], slo_s=1.0),
    application("uncached", "m:1", slo_s=1.0, uses_cache=False),
)
FACTORS = {"old": 2.0, "new": 3.0}


def version(content: str, num_replicas: int = 1) -> ServedVersion:
    options = ServingOptions(max_batch_size=MAX_BATCH_ROWS, cache_ttl_s=0.5)
    points = tuple((rows, COMPUTE_S) for rows in (1, 2, MAX_BATCH_ROWS))
    return replace(
        served("m:1", serving=options, num_replicas=num_replicas, artifact_sha256=content),
        latencies=points,
    )


def depth() -> int:
    frame, number = sys._getframe(), 0
    while frame is not None:
        frame, number = frame.f_back, number + 1
    return number


class Asked:
    """A query as the reference knows it."""

    def __init__(self, query: Query, *, raises: bool) -> None:
        self.inputs = np.frombuffer(query.inputs[0])
        self.key = (query.version and query.version.identity, query.inputs[0])
        self.raises = raises
        self.settled: Prediction | None = None
        self.is_cancelled = False

    @property
    def is_open(self) -> bool:
        return self.settled is None and not self.is_cancelled


class Coalescing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.frontend = Frontend(
            version("old"),
            max_queue_size=MAX_QUEUE_ROWS,
            cache=PredictionCache(1 << 20),
            with_replicas=False,
        )
        self.asked: dict[Query, Asked] = {}
        self.depth = 0
        self.add_replica()
        self.add_replica()

    # The reference.

    def settle(self, query: Query, prediction: Prediction) -> None:
        asked = self.asked[query]
        if asked.raises:
            asked.settled = prediction
            raise RuntimeError("a callback that always fails")
        if not asked.is_open:
            pytest.fail("settled twice, or after it was cancelled")
        if depth() - self.depth > MAX_DEPTH:
            pytest.fail("a settlement is deeper in the stack than one query needs")
        asked.settled = prediction

    @property
    def open(self) -> list[Query]:
        return [query for query, asked in self.asked.items() if asked.is_open]

    @property
    def busy(self) -> list[FakeReplica]:
        return [replica for replica in self.frontend.replicas if replica.in_flight]

    # The events.

    @rule(
        kind=st.sampled_from([0, 0, 0, 1]),
        rows=st.sampled_from([1, 1, 1, 1, 2, 7]),
        within_s=st.sampled_from([0.04, 0.08, 0.08, 0.3, 0.3]),
        app=st.sampled_from(APPLICATIONS),
        number=st.sampled_from([1, 1, 1, 9]),
        raises=st.sampled_from([False, False, True]),
        is_last=st.sampled_from([True, True, False]),
    )
    def submit(self, kind, rows, within_s, app, number, raises, is_last) -> None:
        self.depth = depth()
        for _ in range(number):
            self.ask(kind, rows, within_s, app, raises=raises and number == 1)
        if is_last:
            self.frontend.loop.turn()

    def ask(self, kind, rows, within_s, app, *, raises=False) -> None:
        name = "m:1" if self.frontend.dispatcher.table.versions else None
        if name is None and app is None:
            return
        query = self.frontend.query(name, within_s=within_s, rows=rows, application=app)
        query.inputs = ((np.arange(3.0 * rows) + 100 * kind).tobytes(),)
        query.settle = self.settle
        self.asked[query] = Asked(query, raises=raises)
        self.frontend.dispatcher.submit(query)

    @rule(seconds=st.sampled_from([0.07, 0.15, 0.15, 0.3]))
    def ask_again_later(self, seconds) -> None:
        self.depth = depth()
        self.frontend.loop.advance(seconds)
        self.ask(0, 1, 0.3, None)
        self.frontend.loop.turn()

    @rule()
    def turn(self) -> None:
        self.depth = depth()
        self.frontend.loop.turn()

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.15, 0.2, 1.0]))
    def advance(self, seconds) -> None:
        self.depth = depth()
        self.frontend.loop.advance(seconds)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), fails=st.booleans())
    def answer(self, data, fails) -> None:
        self.depth = depth()
        replica = data.draw(st.sampled_from(self.busy), "replica")
        factor = FACTORS[replica.version.served.artifact_sha256]

        def function(query: Query) -> QueryOutputs | QueryError:
            if fails and query is batch.queries[0]:
                return QueryError(ModelFailed("bad"))
            outputs = np.frombuffer(query.inputs[0]) * factor
            return QueryOutputs([outputs.tobytes()], [(query.rows, 3)])

        batch = replica.in_flight[0]
        replica.answer(batch, compute_s=COMPUTE_S, function=function)

    @rule(data=st.data(), has_died=st.sampled_from([True, False, None]))
    def lose_or_add_replica(self, data, has_died) -> None:
        self.depth = depth()
        ready = [replica for replica in self.frontend.replicas if replica.is_ready]
        if ready and has_died is not None:
            data.draw(st.sampled_from(ready), "replica").lose(has_died=has_died)
        elif self.frontend.dispatcher.table.versions and len(ready) < 3:
            self.add_replica()

    def add_replica(self) -> None:
        replica = self.frontend.add_replica()
        self.frontend.dispatcher.schedule_dispatch(replica.version)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        self.depth = depth()
        query = data.draw(st.sampled_from(self.open), "query")
        self.asked[query].is_cancelled = True
        self.frontend.dispatcher.cancel(query)

    @rule(
        content=st.sampled_from(["old", "old", "new", None]), num_replicas=st.sampled_from([0, 1])
    )
    def apply(self, content, num_replicas) -> None:
        self.depth = depth()
        self.frontend.apply(*[version(content, num_replicas)] if content else [])

    # The invariants.

    @invariant()
    def answers_are_those_of_the_inputs_and_of_the_version(self) -> None:
        for query, asked in self.asked.items():
            settled = asked.settled
            if settled is not None and settled.outcome is Outcome.OK and settled.error is None:
                factor = FACTORS[query.version.artifact_sha256]
                found = np.frombuffer(settled.outputs[0])
                assert found.tolist() == (asked.inputs * factor).tolist()

    @invariant()
    def no_query_is_open_after_its_deadline(self) -> None:
        now = self.frontend.clock()
        assert all(query.deadline >= now - 0.001 for query in self.open)

    @invariant()
    def open_queries_are_counted(self) -> None:
        dispatcher = self.frontend.dispatcher
        parts = [part for query in self.open for part in query.parts if not part.is_settled]
        assert dispatcher.num_unsettled == len(self.open) + len(parts)
        waiting = [*self.open, *parts]
        assert dispatcher.unsettled_bytes == sum(query.input_bytes for query in waiting)

    @invariant()
    def the_queue_of_a_version_is_bounded(self) -> None:
        for identity in {query.version.identity for query in self.open if query.version}:
            waiting = [
                query
                for query in self.open
                if query.version
                and query.version.identity == identity
                and not query.num_in_flight
                and not query.parts
            ]
            rows = [query.rows for query in waiting]
            requeued = sum(query.rows for query in waiting if query.attempts or query.dispatched)
            assert len(rows) <= 1 or sum(rows) - requeued <= MAX_QUEUE_ROWS

    @invariant()
    def open_queries_are_computed_while_a_replica_is_idle(self) -> None:
        """A query is in flight and not overdue, or no replica can answer it."""
        now = self.frontend.clock()
        table = self.frontend.dispatcher.table
        if not table.versions or self.frontend.dispatcher._scheduled:
            return
        current = self.frontend.version()
        if all(not each.is_ready or each.in_flight for each in current.replicas):
            return
        computed = {
            query.cache_key or query
            for replica in self.frontend.replicas
            for batch in replica.in_flight
            for query in batch.queries
            # A query is in flight at two replicas at most.
            if now < batch.overdue_at or query.num_in_flight > 1
        }
        waiting = [
            each
            for query in self.open
            if query.version is current.served
            for each in query.parts or (query,)
            if not each.is_settled
        ]
        computed |= {each.cache_key or each for each in waiting if each.is_queued}
        assert {each.cache_key or each for each in waiting} <= computed

    @invariant()
    def no_group_outlives_its_queries(self) -> None:
        coalescing = self.frontend.dispatcher.coalescing
        followers = [query for group in coalescing._groups.values() for query in group.followers]
        assert not any(query.is_settled for query in followers)
        rows: dict[str, int] = {}
        for query in followers:
            rows[query.version.identity] = rows.get(query.version.identity, 0) + query.rows
        assert coalescing.follower_rows == rows
        for group in coalescing._groups.values():
            assert group.leader.is_queued or group.leader.num_in_flight

    def teardown(self) -> None:
        logging.disable(logging.NOTSET)
        self.depth = depth()
        self.frontend.loop.advance(100.0)
        assert self.open == []
        assert self.frontend.dispatcher.num_unsettled == 0
        assert self.frontend.dispatcher.unsettled_bytes == 0


TestCoalescing = Coalescing.TestCase
TestCoalescing.settings = settings(max_examples=examples(200), stateful_step_count=30)
