"""Answers identical queries once: from the cache, or together with one that is being computed.

The first query of its kind leads; those that come before its answer follow it and are answered by
it. A leader that ends unanswered is succeeded by the next follower, and one whose answer would come
too late for a newcomer is succeeded by that newcomer.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence

from skysail_frontend.core.prediction_cache import CacheEntry, CacheKey, PredictionCache
from skysail_frontend.core.query import Query


class _Group:
    """A leader and the queries that wait for its answer, in the order in which they came."""

    __slots__ = ("followers", "leader")

    def __init__(self, leader: Query) -> None:
        self.leader = leader
        self.followers: OrderedDict[Query, None] = OrderedDict()


class Coalescing:
    """The prediction cache, and the queries that are being computed."""

    def __init__(self, cache: PredictionCache) -> None:
        self.cache = cache
        self.follower_rows: Counter[str] = Counter()
        """Rows of the queries that follow others, by the identity of the version."""
        self._groups: dict[CacheKey, _Group] = {}

    def look_up(self, query: Query, now: float) -> CacheEntry | None:
        """Return what was predicted for a query before, if anything, and make the query known.

        Args:
            query: Addresses a version whose predictions are cached.
            now: The present instant.
        """
        assert query.version is not None
        # A part of a message would keep all of it in memory.
        query.inputs = inputs = tuple(map(bytes, query.inputs))
        query.cache_key = (query.version.identity, inputs, tuple(query.variable_dims))
        return self.cache.get(query.cache_key, now)

    def leader(self, query: Query) -> Query | None:
        """Return the query that leads those like this, if there is one."""
        group = None if query.cache_key is None else self._groups.get(query.cache_key)
        return None if group is None else group.leader

    def add_follower(self, query: Query) -> None:
        """Let a query wait for the answer to its leader."""
        assert query.cache_key is not None
        group = self._groups[query.cache_key]
        # All hold the inputs of one, however many wait.
        query.cache_key = group.leader.cache_key
        query.inputs = query.cache_key[1] if query.cache_key is not None else ()
        group.followers[query] = None
        self._add_rows(query, query.rows)

    def set_leader(self, query: Query) -> Query | None:
        """Let a query lead those like it, and return the earlier leader of them, if any."""
        assert query.cache_key is not None
        group = self._groups.get(query.cache_key)
        if group is None:
            self._groups[query.cache_key] = _Group(query)
            return None
        earlier, group.leader = group.leader, query
        return earlier

    def complete(
        self,
        query: Query,
        outputs: tuple[Sequence[bytes], Sequence[tuple[int, ...]]] | None,
        now: float,
        *,
        keeps: bool = True,
    ) -> list[Query]:
        """Keep the answer to a query and return the queries that it answers too.

        Args:
            query: Came back from a model.
            outputs: Data and shapes; None where the model failed.
            now: The present instant.
            keeps: False to leave the cache as it is.
        """
        key, version = query.cache_key, query.version
        if key is None:
            return []
        if keeps and outputs is not None and version is not None:
            self.cache.put(key, *outputs, now + version.serving.cache_ttl_s)
        leader = self.leader(query)
        if leader is None or (leader is not query and outputs is None):
            # An earlier leader failed; the present one may do better.
            return []
        return self.dissolve(query)

    def remove(self, query: Query) -> Query | None:
        """Forget a query that is settled, and return the query that is to lead in its place."""
        key = query.cache_key
        group = None if key is None else self._groups.get(key)
        if key is None or group is None:
            return None
        if group.leader is not query:
            if query in group.followers:
                del group.followers[query]
                self._add_rows(query, -query.rows)
            return None
        if not group.followers:
            del self._groups[key]
            return None
        group.leader, _ = group.followers.popitem(last=False)
        # The same inputs are as much to blame for what became of the replicas.
        group.leader.attempts = query.attempts
        self._add_rows(group.leader, -group.leader.rows)
        return group.leader

    def dissolve(self, query: Query) -> list[Query]:
        """Forget a query and all like it, and return those others."""
        assert query.cache_key is not None
        group = self._groups.pop(query.cache_key)
        if group.followers:
            self._add_rows(query, -sum([each.rows for each in group.followers]))
        return [each for each in (group.leader, *group.followers) if each is not query]

    def _add_rows(self, query: Query, rows: int) -> None:
        assert query.version is not None
        identity = query.version.identity
        rows += self.follower_rows[identity]
        if rows:
            self.follower_rows[identity] = rows
        else:
            del self.follower_rows[identity]

    def forget(self, identity: str) -> None:
        """Keep nothing of a version that is gone."""
        self.cache.forget(identity)
