"""Coalescing: identical queries are computed once, and answered from the cache or together.

The first of several identical queries is their leader. Those that arrive before its answer are its
followers, and its answer settles them too. If a leader is settled without an answer, the first
follower becomes the leader. If the answer to a leader would be too late for a new query, the new
query becomes the leader.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence

from skysail_frontend.core.prediction_cache import CacheEntry, CacheKey, PredictionCache
from skysail_frontend.core.query import Query


class _IdenticalQueries:
    """A leader and its followers, in the order of arrival."""

    __slots__ = ("followers", "leader")

    def __init__(self, leader: Query) -> None:
        self.leader = leader
        self.followers: OrderedDict[Query, None] = OrderedDict()


class Coalescing:
    """The prediction cache, and the groups of identical unsettled queries."""

    def __init__(self, cache: PredictionCache) -> None:
        self.cache = cache
        self.follower_rows: Counter[str] = Counter()
        """Rows of the followers, by the identity of the version."""
        self._groups: dict[CacheKey, _IdenticalQueries] = {}

    def look_up(self, query: Query, now: float) -> CacheEntry | None:
        """Set the cache key of a query and return its cached prediction, or None.

        Args:
            query: Query of a version that enables caching.
            now: The present instant.
        """
        assert query.version is not None
        # A view of a message would keep the whole message in memory.
        query.inputs = inputs = tuple(map(bytes, query.inputs))
        dims = tuple(query.variable_dims)
        query.cache_key = (query.version.identity, inputs, dims, query.params)
        return self.cache.get(query.cache_key, now)

    def leader(self, query: Query) -> Query | None:
        """Return the leader of the queries that are identical to a query, or None."""
        group = None if query.cache_key is None else self._groups.get(query.cache_key)
        return None if group is None else group.leader

    def add_follower(self, query: Query) -> None:
        """Add a query to the followers of its leader."""
        assert query.cache_key is not None
        group = self._groups[query.cache_key]
        # Followers share the inputs of their leader, which bounds their memory.
        query.cache_key = group.leader.cache_key
        query.inputs = query.cache_key[1] if query.cache_key is not None else ()
        group.followers[query] = None
        self._add_rows(query, query.rows)

    def set_leader(self, query: Query) -> Query | None:
        """Make a query the leader of its group and return the former leader, or None."""
        assert query.cache_key is not None
        group = self._groups.get(query.cache_key)
        if group is None:
            self._groups[query.cache_key] = _IdenticalQueries(query)
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
        """Cache the answer to a query and return the other queries that it settles.

        Args:
            query: Query that a replica answered.
            outputs: Data and shapes; None if the model failed.
            now: The present instant.
            keeps: False to leave the cache unchanged.
        """
        key, version = query.cache_key, query.version
        if key is None:
            return []
        if keeps and outputs is not None and version is not None:
            self.cache.put(key, *outputs, now + version.serving.cache_ttl_s)
        leader = self.leader(query)
        if leader is None or (leader is not query and outputs is None):
            # A former leader failed; the present leader may succeed.
            return []
        return self.dissolve(query)

    def remove(self, query: Query) -> Query | None:
        """Remove a settled query from its group and return the new leader, or None."""
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
        # The new leader has the same inputs, which may be the cause of the failed attempts.
        group.leader.attempts = query.attempts
        self._add_rows(group.leader, -group.leader.rows)
        return group.leader

    def dissolve(self, query: Query) -> list[Query]:
        """Remove the group of a query and return the other queries of the group."""
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
        """Forget the cached predictions of a removed version."""
        self.cache.forget(identity)
