"""Answers identical queries once: from the cache, or together with one that is being computed.

The first query of its kind leads; those that come before its answer follow it and are answered by
it. A leader that leaves unanswered, because its caller or its deadline did, is followed by the next.
"""

from collections.abc import Sequence

from skysail_frontend.prediction_cache import Entry, Key, PredictionCache
from skysail_frontend.query import Query


class Caching:
    """The prediction cache, and the queries that are being computed."""

    def __init__(self, cache: PredictionCache) -> None:
        self.cache = cache
        self._leaders: dict[Key, Query] = {}
        self._followers: dict[Key, list[Query]] = {}

    def find(self, query: Query, now: float) -> Entry | None:
        """Return what was predicted for a query before, if anything, and make the query known.

        Args:
            query: Addresses a version whose predictions are cached.
            now: The present instant.
        """
        assert query.version is not None
        query.cache_key = (query.version.identity, tuple(query.inputs), tuple(query.variable_dims))
        return self.cache.get(query.cache_key, now)

    def follows(self, query: Query) -> bool:
        """Return True where another query like this is being computed, which this now follows."""
        key = query.cache_key
        if key is None or key not in self._leaders:
            return False
        self._followers.setdefault(key, []).append(query)
        return True

    def lead(self, query: Query) -> None:
        """Have other queries like this follow it; nothing where its answers are not cached."""
        if query.cache_key is not None:
            self._leaders[query.cache_key] = query

    def answered(
        self,
        query: Query,
        outputs: tuple[Sequence[bytes], Sequence[tuple[int, ...]]] | None,
        now: float,
    ) -> list[Query]:
        """Keep the answer to a query and return the queries that it answers too.

        Args:
            query: Came back from a model.
            outputs: Data and shapes; None where the model failed.
            now: The present instant.
        """
        key = query.cache_key
        if key is None:
            return []
        version = query.version
        if outputs is not None and version is not None:
            self.cache.put(key, *outputs, now + version.serving.cache_ttl_s)
        if self._leaders.get(key) is not query:
            return []
        return self._end(key)

    def left(self, query: Query) -> Query | None:
        """Return the query that is to lead now, after a leader that nobody computes has left."""
        key = query.cache_key
        if key is None or self._leaders.get(key) is not query:
            return None
        followers = self._end(key)
        if not followers:
            return None
        leader, *rest = followers
        self._leaders[key] = leader
        if rest:
            self._followers[key] = rest
        return leader

    def _end(self, key: Key) -> list[Query]:
        del self._leaders[key]
        return [query for query in self._followers.pop(key, []) if not query.is_settled]

    def forget(self, identity: str) -> None:
        """Keep nothing of a version that is gone."""
        self.cache.forget(identity)
