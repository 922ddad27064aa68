import gc
import random
import weakref

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skysail_frontend.core.batching import deadline_queue
from skysail_frontend.core.batching.deadline_queue import DeadlineQueue
from skysail_frontend.core.query import Query
from skysail_testing.examples import examples


def waiting(deadline: float = 0.0, rows: int = 1, settle=lambda *_: None) -> Query:
    return Query("", None, None, (), rows, (), 0.0, deadline, settle)


class QueueAgainstModel(RuleBasedStateMachine):
    """A queue against a list that is sorted by deadline and then by arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = DeadlineQueue()
        self.model: list[tuple[float, int, Query]] = []
        self.gone: list[Query] = []
        self.arrivals = 0

    def _push(self, query: Query) -> None:
        self.queue.push(query)
        self.arrivals += 1
        self.model.append((query.deadline, self.arrivals, query))
        self.model.sort(key=lambda entry: entry[:2])

    # Few deadlines are used, so that many are equal.
    @rule(deadline=st.sampled_from([1.0, 2.0, 3.0, float("inf")]), rows=st.integers(1, 5))
    def push(self, deadline: float, rows: int) -> None:
        self._push(waiting(deadline, rows))

    @rule()
    def pop(self) -> None:
        expected = self.model.pop(0)[2] if self.model else None
        assert self.queue.pop() is expected
        if expected is not None:
            self.gone.append(expected)

    @rule()
    def peek(self) -> None:
        assert self.queue.peek() is (self.model[0][2] if self.model else None)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.model), "query")
        self.model.remove(entry)
        self.queue.remove(entry[2])

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def remove_a_query_that_is_not_queued(self, data: st.DataObject) -> None:
        self.queue.remove(data.draw(st.sampled_from(self.gone), "query"))

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def requeue_a_popped_query(self, data: st.DataObject) -> None:
        query = data.draw(st.sampled_from(self.gone), "query")
        self.gone.remove(query)
        self._push(query)

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        assert len(self.queue) == self.queue.num_queries == len(self.model)
        assert self.queue.num_rows == sum(query.rows for _, _, query in self.model)
        assert all(query.is_queued for _, _, query in self.model)
        assert not any(query.is_queued for query in self.gone)

    def teardown(self) -> None:
        left = [query for _, _, query in self.model]
        assert [self.queue.pop() for _ in left] == left
        assert self.queue.pop() is None
        assert self.queue.num_rows == 0


class EagerlyCompactedQueueAgainstModel(QueueAgainstModel):
    def __init__(self) -> None:
        super().__init__()
        self.usual, deadline_queue._MIN_COMPACTION = deadline_queue._MIN_COMPACTION, 2

    def teardown(self) -> None:
        deadline_queue._MIN_COMPACTION = self.usual
        super().teardown()


TestQueue = QueueAgainstModel.TestCase
TestQueue.settings = settings(max_examples=examples(20), stateful_step_count=40)
TestEagerlyCompactedQueue = EagerlyCompactedQueueAgainstModel.TestCase
TestEagerlyCompactedQueue.settings = TestQueue.settings


def test_removing_a_query_updates_the_counts_at_once():
    queue = DeadlineQueue()
    first, second = waiting(1.0, rows=3), waiting(2.0, rows=4)
    queue.push(first)
    queue.push(second)
    queue.remove(first)
    assert (len(queue), queue.num_rows) == (1, 4)
    assert not first.is_queued
    assert queue.peek() is second


def test_queries_leave_in_order_after_many_others_were_removed():
    queue = DeadlineQueue()
    source = random.Random(7)
    queries = [waiting(source.choice(range(50))) for _ in range(400)]
    for query in queries:
        queue.push(query)
    stay = queries[::3]
    for query in set(queries) - set(stay):
        queue.remove(query)
    assert [queue.pop() for _ in stay] == sorted(stay, key=lambda query: query.deadline)
    assert queue.pop() is None


def test_removed_queries_behind_a_queued_one_are_freed():
    class Settle:
        def __call__(self, *_: object) -> None: ...

    queue = DeadlineQueue()
    queue.push(waiting(0.0))
    queries, settles = [], []
    for index in range(1000):
        settle = Settle()
        settles.append(weakref.ref(settle))
        queries.append(waiting(1.0 + index, settle=settle))
        queue.push(queries[-1])
    for query in queries:
        queue.remove(query)
    del queries, query, settle
    gc.collect()
    assert sum(settle() is not None for settle in settles) <= 64
    assert queue.pop() is not None
    assert queue.pop() is None
