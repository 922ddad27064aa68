"""`python -m benchmarks.cache`: hit ratios of SIEVE, LRU and CLOCK on Zipf traces."""

import random
from bisect import bisect
from collections import OrderedDict, deque
from itertools import accumulate
from typing import Protocol

from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.prediction_cache import CacheEntry, CacheKey, PredictionCache

NUM_QUERIES = 200_000
NUM_INPUTS = 10_000


class Candidate(Protocol):
    """A cache of a fixed number of entries."""

    def ask(self, number: int) -> bool:
        """Return whether the cache holds an input, and add the input if not."""
        ...


class Lru:
    """LRU: evicts the least recently used entry."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[int, None] = OrderedDict()

    def ask(self, number: int) -> bool:
        """Return whether the cache holds an input, and add the input if not."""
        if number in self._entries:
            self._entries.move_to_end(number)
            return True
        self._entries[number] = None
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)
        return False


class Clock:
    """CLOCK: a mark gives an entry a second chance."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._marks: dict[int, bool] = {}
        self._queue: deque[int] = deque()

    def ask(self, number: int) -> bool:
        """Return whether the cache holds an input, and add the input if not."""
        if number in self._marks:
            self._marks[number] = True
            return True
        while len(self._marks) >= self._size:
            oldest = self._queue.popleft()
            if self._marks[oldest]:
                self._marks[oldest] = False
                self._queue.append(oldest)
            else:
                del self._marks[oldest]
        self._marks[number] = False
        self._queue.append(number)
        return False


class Sieve:
    """SIEVE, as frontends use it."""

    def __init__(self, size: int) -> None:
        self._cache = PredictionCache(size * CacheEntry(_key(0), [b""], [(1,)], 1.0, {}).size_bytes)

    def ask(self, number: int) -> bool:
        """Return whether the cache holds an input, and add the input if not."""
        key = _key(number)
        if self._cache.get(key, 0.0) is not None:
            return True
        self._cache.put(key, [b""], [(1,)], 1.0)
        return False


def _key(number: int) -> CacheKey:
    return ModelVersion("m", "1"), (number.to_bytes(256, "little"),), (), ""


def main() -> None:
    """Print a table."""
    print("| skew | entries | LRU | CLOCK | SIEVE |\n|---|---|---|---|---|")
    for skew in (0.8, 1.0, 1.2):
        weights = list(accumulate(1 / (rank + 1) ** skew for rank in range(NUM_INPUTS)))
        source = random.Random(1)
        trace = [bisect(weights, source.random() * weights[-1]) for _ in range(NUM_QUERIES)]
        for size in (100, 1000):
            candidates: list[Candidate] = [Lru(size), Clock(size), Sieve(size)]
            ratios = [sum(map(each.ask, trace)) / len(trace) for each in candidates]
            print(f"| {skew} | {size} | " + " | ".join(f"{each:.3f}" for each in ratios) + " |")


if __name__ == "__main__":
    main()
