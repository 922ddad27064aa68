import random
import tracemalloc
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_frontend.core.prediction_cache import CacheEntry, PredictionCache
from skysail_testing.costs import least_cost
from skysail_testing.examples import examples

M1, M2 = "m:1@a", "m:2@a"


def key(number: int, version: str = M1):
    return version, (number.to_bytes(8, "little"),), (), ""


def size() -> int:
    return CacheEntry(key(0), [b"x"], [(1,)], 0.0, {}).size_bytes


def put(cache: PredictionCache, number: int, version: str = M1, expires: float = 1e9):
    cache.put(key(number, version), [bytes([number % 256])], [(1,)], expires)


def knows(cache: PredictionCache, number: int, now: float = 0.0) -> bool:
    return cache.get(key(number), now) is not None


def test_visited_entries_survive_eviction():
    cache = PredictionCache(3 * size())
    for number in (1, 2, 3):
        put(cache, number)
    assert knows(cache, 1)
    put(cache, 4)
    assert [knows(cache, number) for number in (1, 2, 3, 4)] == [True, False, True, True]


def test_a_prediction_is_found_by_all_of_its_inputs():
    cache = PredictionCache(1 << 20)
    cache.put((M1, (b"a", b"b"), (2,), ""), [b"1"], [(1,)], 1e9)
    assert cache.get((M1, (b"a", b"b"), (3,), ""), 0.0) is None
    assert cache.get((M1, (b"ab", b""), (2,), ""), 0.0) is None
    assert cache.get((M1, (b"a", b"b"), (2,), '{"n":1}'), 0.0) is None
    assert cache.get((M2, (b"a", b"b"), (2,)), 0.0) is None
    entry = cache.get((M1, (b"a", b"b"), (2,), ""), 0.0)
    assert entry is not None
    assert entry.data == [b"1"]


def test_a_prediction_expires_at_its_instant():
    cache = PredictionCache(1 << 20)
    put(cache, 1, expires=10.0)
    assert knows(cache, 1, now=9.9)
    assert not knows(cache, 1, now=10.0)
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_a_newer_prediction_replaces_the_older():
    cache = PredictionCache(1 << 20)
    put(cache, 1, expires=10.0)
    put(cache, 1, expires=20.0)
    assert knows(cache, 1, now=15.0)
    assert (len(cache), cache.size_bytes) == (1, size())


def test_a_prediction_larger_than_the_cache_is_not_cached():
    cache = PredictionCache(3 * size())
    put(cache, 1)
    cache.put(key(2), [bytes(10 * size())], [(1,)], 1e9)
    assert knows(cache, 1)
    assert not knows(cache, 2)


def test_forgetting_a_version_keeps_the_others():
    cache = PredictionCache(1 << 20)
    put(cache, 1, M1)
    put(cache, 1, M2)
    cache.forget(M1)
    assert not knows(cache, 1)
    assert cache.get(key(1, M2), 0.0) is not None


@pytest.mark.timed
def test_forgetting_a_version_takes_no_longer_with_many_entries():
    def attempt(number: int) -> float:
        cache = PredictionCache(1 << 30)
        for each in range(number):
            cache.put((M1, (each.to_bytes(8, "little"),), (), ""), [b""], [(1,)], 1e9)
        begin = thread_time()
        cache.forget(M1)
        took_s = thread_time() - begin
        assert len(cache) == 0
        return took_s

    limit_s = 100 * min(attempt(10) for _ in range(100))
    assert least_cost(lambda: attempt(20_000), limit_s) < limit_s


def test_new_entries_reclaim_the_memory_of_a_removed_version():
    cache = PredictionCache(1 << 20)
    for number in range(100):
        put(cache, number, M1)
    cache.forget(M1)
    for number in range(50):
        put(cache, number, M2)
    assert cache.size_bytes == size() * len(cache) == size() * 50
    assert all(cache.get(key(number, M2), 0.0) is not None for number in range(50))
    assert cache.num_evicted == 0


@settings(max_examples=examples(60))
@given(st.lists(st.tuples(st.sampled_from("pgfx"), st.integers(0, 7)), max_size=80))
def test_the_cache_stays_within_its_limit_and_holds_only_cached_entries(steps):
    cache = PredictionCache(3 * size() + 10)
    last: dict[int, bytes] = {}
    for step, number in steps:
        if step == "p":
            put(cache, number)
            last[number] = bytes([number])
        elif step == "g":
            entry = cache.get(key(number), 0.0)
            assert entry is None or entry.data == [last[number]]
        elif step == "f":
            cache.forget(M1)
        else:
            put(cache, number, expires=-1.0)
            assert not knows(cache, number)
        assert size() * len(cache) <= cache.size_bytes <= cache.max_bytes


def test_sieve_beats_a_queue_on_skewed_queries():
    source = random.Random(3)
    weights = [1 / (rank + 1) for rank in range(2000)]
    asked = source.choices(range(2000), weights, k=30_000)
    cache = PredictionCache(100 * size())
    fifo: dict[int, None] = {}
    hits = fifo_hits = 0
    for number in asked:
        if knows(cache, number):
            hits += 1
        else:
            put(cache, number)
        if number in fifo:
            fifo_hits += 1
        else:
            fifo[number] = None
            if len(fifo) > 100:
                del fifo[next(iter(fifo))]
    assert hits > 1.15 * fifo_hits


@pytest.mark.parametrize("data_bytes", [8, 4096])
def test_the_counted_bytes_match_those_of_the_process(data_bytes):
    cache = PredictionCache(1 << 30)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(5000):
            data = number.to_bytes(8, "little") * (data_bytes // 8)
            cache.put((M1, (data,), (), ""), [bytes(16)], [(1,)], 1e9)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.size_bytes == pytest.approx(after - before, rel=0.15)
