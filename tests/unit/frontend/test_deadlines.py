import gc
import weakref

from skysail_frontend.core import deadlines
from unit.frontend.parts import Frontend, doubled, served


def test_distant_deadlines_do_not_keep_settled_queries():
    class Caller:
        def __call__(self, *_: object) -> None: ...

    frontend = Frontend(served(), function=doubled)
    callers = []
    for _ in range(5000):
        caller = Caller()
        callers.append(weakref.ref(caller))
        query = frontend.query(within_s=60.0)
        query.settle = caller
        frontend.dispatcher.submit(query)
        frontend.loop.turn()
        frontend.replica.sent.clear()
    del caller, query
    assert frontend.dispatcher.num_unsettled == 0
    gc.collect()
    assert sum(caller() is not None for caller in callers) <= 1100


def test_deadlines_are_rarely_compacted_while_no_query_is_settled(monkeypatch):
    compactions = []
    monkeypatch.setattr(deadlines.heapq, "heapify", lambda heap: compactions.append(len(heap)))
    frontend = Frontend(served(), max_queue_size=10_000)
    frontend.replica.is_ready = False
    for _ in range(5000):
        frontend.submit()
    assert compactions == [1025, 2051, 4103]


def test_compaction_keeps_the_deadlines_of_unsettled_queries():
    frontend = Frontend(served(), max_queue_size=10_000)
    frontend.replica.is_ready = False
    queries = [frontend.submit(within_s=1.0 + index / 1e4) for index in range(5000)]
    for query in queries[:4000]:
        frontend.dispatcher.cancel(query)
    queries += [frontend.submit(within_s=2.0) for _ in range(1000)]
    frontend.loop.advance(3.0)
    assert [query for query in queries if query in frontend.settled] == queries[4000:]
    assert frontend.dispatcher.num_unsettled == 0
