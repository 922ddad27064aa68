"""Each query is settled or cancelled exactly once, with random events in random order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skysail_common.errors import ModelFailed
from skysail_frontend.core.batch import QueryError
from skysail_frontend.core.query import Outcome, Query
from skysail_testing.examples import examples
from unit.frontend.parts import FakeReplica, Frontend, application, doubled, served

NAMES = ("m:1", "m:2")
APPLICATIONS = (None, application("plain", "m:1"), application("default", "m:1", default=[0.0]))
MAX_QUEUE_SIZE = 6
MAX_BATCH_SIZE = 3


def version(name: str, num_replicas: int = 1):
    return served(name, max_batch_size=MAX_BATCH_SIZE, num_replicas=num_replicas)


class DispatcherAtWork(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.frontend = Frontend(*map(version, NAMES), max_queue_size=MAX_QUEUE_SIZE)
        self.submitted: list[Query] = []
        self.cancelled: set[Query] = set()

    @property
    def unsettled(self) -> list[Query]:
        gone = self.cancelled | set(self.frontend.settled.predictions)
        return [query for query in self.submitted if query not in gone]

    def busy(self) -> list[FakeReplica]:
        return [replica for replica in self.frontend.replicas if replica.in_flight]

    @rule(
        name=st.sampled_from([*NAMES, "m:3", None]),
        app=st.sampled_from(APPLICATIONS[1:]),
        within_s=st.sampled_from([-0.1, 0.0, 0.05, 0.1, 0.1, 0.3, 5.0]),
        rows=st.integers(1, MAX_BATCH_SIZE),
    )
    def submit_to_application(self, name, app, within_s, rows) -> None:
        self._submit(name, within_s, rows, app)

    @rule(
        name=st.sampled_from(NAMES),
        within_s=st.sampled_from([0.05, 0.1, 0.3, 5.0]),
        rows=st.integers(1, 2),
    )
    def submit_to_model(self, name, within_s, rows) -> None:
        if name in map(str, self.frontend.dispatcher.table.versions):
            self._submit(name, within_s, rows, None)

    def _submit(self, name, within_s, rows, app) -> None:
        query = self.frontend.query(name, within_s=within_s, rows=rows, application=app)
        self.submitted.append(query)
        self.frontend.dispatcher.submit(query)

    @rule()
    def turn(self) -> None:
        self.frontend.loop.turn()
        for name in self.frontend.dispatcher.table.versions:
            version = self.frontend.version(str(name))
            if len(version.queue):
                ready = [replica for replica in version.replicas if replica.is_ready]
                is_held = version._timer is not None
                is_busy = all(replica.in_flight for replica in ready)
                assert is_busy or is_held, "queries are queued although a replica is idle"

    @precondition(lambda self: self.busy())
    @rule(data=st.data(), fails=st.booleans(), compute_s=st.sampled_from([0.0, 0.001, 0.05]))
    def answer(self, data, fails, compute_s) -> None:
        replica = data.draw(st.sampled_from(self.busy()), "replica")
        batch = data.draw(st.sampled_from(replica.in_flight), "batch")

        def function(query):
            is_bad = fails and query is batch.queries[0]
            return QueryError(ModelFailed("bad")) if is_bad else doubled(query)

        replica.answer(batch, compute_s=compute_s, function=function)

    @precondition(lambda self: any(replica.is_ready for replica in self.frontend.replicas))
    @rule(data=st.data(), has_died=st.booleans())
    def lose(self, data, has_died) -> None:
        ready = [replica for replica in self.frontend.replicas if replica.is_ready]
        data.draw(st.sampled_from(ready), "replica").lose(has_died=has_died)

    @rule(name=st.sampled_from(NAMES))
    def add_replica(self, name) -> None:
        if name in map(str, self.frontend.dispatcher.table.versions):
            replica = self.frontend.add_replica(name)
            self.frontend.dispatcher.schedule_dispatch(replica.version)

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        query = data.draw(st.sampled_from(self.unsettled), "query")
        self.cancelled.add(query)
        self.frontend.dispatcher.cancel(query)

    @rule(data=st.data())
    def cancel_a_settled_query(self, data) -> None:
        if self.frontend.settled:
            query = data.draw(st.sampled_from(list(self.frontend.settled.predictions)), "query")
            self.frontend.dispatcher.cancel(query)

    @rule(seconds=st.sampled_from([0.0001, 0.01, 0.05, 0.2]))
    def advance(self, seconds) -> None:
        self.frontend.loop.advance(seconds)

    @rule(replicas=st.tuples(*[st.sampled_from([None, 0, 1, 1])] * len(NAMES)))
    def apply_table(self, replicas) -> None:
        wanted = zip(NAMES, replicas, strict=True)
        versions = [version(name, number) for name, number in wanted if number is not None]
        self.frontend.apply(*versions)

    @invariant()
    def unsettled_queries_are_counted(self) -> None:
        assert self.frontend.dispatcher.num_unsettled == len(self.unsettled)

    @invariant()
    def no_cancelled_query_is_settled(self) -> None:
        assert not any(query in self.frontend.settled for query in self.cancelled)

    @invariant()
    def no_query_is_unsettled_after_its_deadline(self) -> None:
        now = self.frontend.clock()
        assert all(query.deadline >= now - 0.001 for query in self.unsettled)

    @invariant()
    def each_unsettled_query_is_in_one_queue_or_in_one_batch(self) -> None:
        in_flight = [
            query
            for replica in self.frontend.replicas
            for batch in replica.in_flight
            for query in batch.queries
        ]
        for query in self.unsettled:
            # Only a query of an overdue batch may be elsewhere too.
            assert query.num_in_flight == in_flight.count(query)
            assert 1 <= query.is_queued + query.num_in_flight <= 2

    @invariant()
    def batches_and_queues_keep_their_bounds(self) -> None:
        for replica in self.frontend.replicas:
            assert replica.num_in_flight <= 2
            for batch in replica.in_flight:
                rows = sum(query.rows for query in batch.queries)
                assert len(batch.queries) == 1 or rows <= MAX_BATCH_SIZE

    @invariant()
    def queries_with_a_default_get_no_error(self) -> None:
        for query, prediction in self.frontend.settled.predictions.items():
            has_default = query.application is not None and query.application.has_default
            is_error = prediction.error is not None
            assert is_error == (prediction.outcome is not Outcome.OK and not has_default)

    def teardown(self) -> None:
        self.frontend.loop.advance(100.0)
        assert self.unsettled == []
        assert self.frontend.dispatcher.num_unsettled == 0
        for name in self.frontend.dispatcher.table.versions:
            assert len(self.frontend.version(str(name)).queue) == 0


TestDispatcher = DispatcherAtWork.TestCase
TestDispatcher.settings = settings(max_examples=examples(25), stateful_step_count=50)
