"""A cache of predictions by their inputs, with SIEVE eviction.

A hit only marks its entry as visited. To evict, a hand moves from the oldest entry to the newest,
clears the mark of visited entries and evicts the first that is not visited (Zhang et al., "SIEVE is
simpler than LRU", NSDI 2024). `benchmarks/cache.py` compares SIEVE with CLOCK and LRU.
"""

from collections.abc import Sequence
from sys import getsizeof

CacheKey = tuple[str, tuple[bytes, ...], tuple[int, ...], str]
"""Identity of the version, data of each input, variable sizes, and parameters; the rows follow."""

_ENTRY_BYTES = 400
"""Memory of an entry besides its data: node, key, tuples and table slot (measured)."""
_SWEPT = 4
"""Entries of removed versions that each new entry evicts: to evict all at once would take 1 s."""


class CacheEntry:
    """A cached prediction."""

    __slots__ = (
        "data",
        "expires",
        "is_visited",
        "key",
        "newer",
        "older",
        "shapes",
        "size_bytes",
        "table",
    )

    def __init__(
        self,
        key: CacheKey,
        data: Sequence[bytes],
        shapes: Sequence[tuple[int, ...]],
        expires: float,
        table: "CacheTable",
    ) -> None:
        self.key = key
        self.table = table
        self.data = data
        self.shapes = shapes
        self.expires = expires
        self.size_bytes = _ENTRY_BYTES + sum(map(getsizeof, key[1])) + sum(map(getsizeof, data))
        if key[3]:
            self.size_bytes += getsizeof(key[3])
        self.is_visited = False
        self.newer: CacheEntry | None = None
        self.older: CacheEntry | None = None


CacheTable = dict[CacheKey, CacheEntry]
"""The entries of one version."""


class PredictionCache:
    """A bounded cache of the predictions of all model versions of a frontend."""

    def __init__(self, max_bytes: int) -> None:
        """Starts empty.

        Args:
            max_bytes: Memory limit of all entries together; 0 to disable the cache.
        """
        self.max_bytes = max_bytes
        self.size_bytes = 0
        """Memory of all entries."""
        self.num_evicted = 0
        """Number of entries evicted for lack of memory."""
        self._tables: dict[str, CacheTable] = {}
        """Tables by the identity of their version."""
        self._gone: list[CacheTable] = []
        """Tables of removed versions, in which no query is looked up."""
        self._newest: CacheEntry | None = None
        self._oldest: CacheEntry | None = None
        self._hand: CacheEntry | None = None

    def __len__(self) -> int:
        return sum(map(len, self._tables.values()))

    def get(self, key: CacheKey, now: float) -> CacheEntry | None:
        """Return the entry of a key, or None if it is absent or expired."""
        table = self._tables.get(key[0])
        entry = None if table is None else table.get(key)
        if entry is None:
            return None
        if entry.expires <= now:
            self._remove(entry)
            return None
        entry.is_visited = True
        return entry

    def put(
        self,
        key: CacheKey,
        data: Sequence[bytes],
        shapes: Sequence[tuple[int, ...]],
        expires: float,
    ) -> None:
        """Cache a prediction until it expires or is evicted."""
        self._sweep()
        table = self._tables.setdefault(key[0], {})
        old = table.get(key)
        if old is not None:
            self._remove(old)
        entry = CacheEntry(key, data, shapes, expires, table)
        if entry.size_bytes > self.max_bytes:
            return
        while self.size_bytes + entry.size_bytes > self.max_bytes:
            self._evict()
        table[key] = entry
        self.size_bytes += entry.size_bytes
        entry.older, self._newest = self._newest, entry
        if entry.older is not None:
            entry.older.newer = entry
        else:
            self._oldest = entry

    def forget(self, identity: str) -> None:
        """Forget the entries of a version; later entries reclaim their memory step by step."""
        table = self._tables.pop(identity, None)
        if table:
            self._gone.append(table)

    def _sweep(self) -> None:
        for _ in range(_SWEPT):
            while self._gone and not self._gone[-1]:
                self._gone.pop()
            if not self._gone:
                return
            self._unlink(self._gone[-1].popitem()[1])

    def _evict(self) -> None:
        entry = self._hand or self._oldest
        assert entry is not None
        while entry.is_visited:
            entry.is_visited = False
            entry = entry.newer or self._oldest
            assert entry is not None
        # `_remove` advances the hand.
        self._hand = entry
        self._remove(entry)
        self.num_evicted += 1

    def _remove(self, entry: CacheEntry) -> None:
        del entry.table[entry.key]
        self._unlink(entry)

    def _unlink(self, entry: CacheEntry) -> None:
        self.size_bytes -= entry.size_bytes
        older, newer = entry.older, entry.newer
        if older is not None:
            older.newer = newer
        else:
            self._oldest = newer
        if newer is not None:
            newer.older = older
        else:
            self._newest = older
        if self._hand is entry:
            self._hand = newer
