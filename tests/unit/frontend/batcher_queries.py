"""Queries and a latency for tests of the batcher."""

from skysail_frontend.core.query import DEFAULT_PRIORITY, Query

NOW = 100.0


def line(rows: int) -> float:
    return 0.010 + 0.0005 * rows


def query(
    within_s: float = 1.0,
    rows: int = 1,
    *,
    arrival: float = NOW,
    attempts: int = 0,
    priority: int = DEFAULT_PRIORITY,
    size: int = 0,
) -> Query:
    made = Query(
        "", None, None, (bytes(size),), rows, (), arrival, arrival + within_s, lambda *_: None
    )
    made.attempts, made.priority = attempts, priority
    return made
