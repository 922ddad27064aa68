from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_frontend.batching.batcher import LAST_ATTEMPT, Batcher
from skysail_frontend.batching.deadline_queue import DeadlineQueue
from skysail_frontend.query import Query


def queue_of(*parts: tuple[float, int, int]) -> DeadlineQueue:
    queue = DeadlineQueue()
    for deadline, rows, attempts in parts:
        query = Query("", None, None, (), rows, (), 0.0, deadline, lambda *_: None)
        query.attempts = attempts
        queue.push(query)
    return queue


def batches_of(queue: DeadlineQueue, max_batch_size: int) -> list[list[Query]]:
    batcher = Batcher(queue, max_batch_size)
    batches = []
    while batch := batcher.next_batch():
        batches.append(batch)
    return batches


def rows_of(batches: list[list[Query]]) -> list[list[int]]:
    return [[query.rows for query in batch] for batch in batches]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1.0, 2.0, 3.0]), st.integers(1, 12), st.integers(0, 3)),
        max_size=30,
    ),
    st.integers(1, 10),
)
def test_batches_hold_every_query_once_in_order_within_the_maximum(parts, max_batch_size):
    batches = batches_of(queue_of(*parts), max_batch_size)
    in_order = sorted(parts, key=lambda part: part[0])
    sent = [query for batch in batches for query in batch]
    assert [(query.deadline, query.rows, query.attempts) for query in sent] == in_order
    assert len(set(sent)) == len(sent)
    for batch in batches:
        assert len(batch) == 1 or sum(query.rows for query in batch) <= max_batch_size
        assert len(batch) == 1 or all(query.attempts < LAST_ATTEMPT for query in batch)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=30), st.integers(1, 10))
def test_a_batch_ends_only_where_the_next_query_does_not_fit(all_rows, max_batch_size):
    batches = batches_of(queue_of(*((1.0, rows, 0) for rows in all_rows)), max_batch_size)
    for batch, following in pairwise(batches):
        assert sum(query.rows for query in batch) + following[0].rows > max_batch_size


def test_a_query_larger_than_the_maximum_travels_alone():
    queue = queue_of((1, 2, 0), (2, 9, 0), (3, 2, 0))
    assert rows_of(batches_of(queue, 8)) == [[2], [9], [2]]


def test_a_query_on_its_last_attempt_travels_alone():
    queue = queue_of((1, 1, 0), (2, 2, LAST_ATTEMPT), (3, 3, LAST_ATTEMPT - 1), (4, 4, 0))
    assert rows_of(batches_of(queue, 100)) == [[1], [2], [3, 4]]


def test_an_empty_queue_gives_an_empty_batch():
    assert Batcher(DeadlineQueue(), 8).next_batch() == []


def test_a_new_maximum_holds_for_the_next_batch():
    queue = queue_of(*((1.0, 1, 0) for _ in range(5)))
    batcher = Batcher(queue, 1)
    assert len(batcher.next_batch()) == 1
    batcher.max_batch_size = 3
    assert len(batcher.next_batch()) == 3


def test_a_batch_is_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr("skysail_frontend.batching.batcher.MAX_BATCH_BYTES", 100)
    queue = DeadlineQueue()
    for size in (60, 50, 200, 30, 30):
        queue.push(Query("", None, None, (bytes(size),), 1, (), 0.0, 1.0, lambda *_: None))
    sizes = [[query.input_bytes for query in batch] for batch in batches_of(queue, 64)]
    assert sizes == [[60], [50], [200], [30, 30]]
