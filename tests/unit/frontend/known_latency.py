"""Frontends whose version has a known latency of 10 ms and half a millisecond per row."""

from skysail_common.serving_options import ServingOptions
from skysail_frontend.core.query import Query
from skysail_frontend.core.routes import ServedVersion
from unit.frontend.parts import Frontend, served


def line(rows: int) -> float:
    return 0.010 + 0.0005 * rows


def version_with(**options: object) -> ServedVersion:
    like = served(num_replicas=3)
    return ServedVersion(like.name, like.signature, ServingOptions(**options), num_replicas=3)


def frontend_with(num_replicas: int, *, is_known: bool = True, **options: object) -> Frontend:
    """Return a frontend with one version of known latency."""
    frontend = Frontend(version_with(**options), with_replicas=False, max_queue_size=10_000)
    for _ in range(num_replicas):
        frontend.add_replica()
    if is_known:
        points = [(rows, line(rows)) for rows in (1, 2, 4, 8, 16, 32, 64)]
        frontend.version().batcher.profile.seed(points)
    return frontend


def send(frontend: Frontend, number: int = 1, **options: object) -> list[Query]:
    """Submit queries within one turn."""
    queries = [frontend.submit(**options) for _ in range(number)]
    frontend.loop.turn()
    return queries


def held(**options: object) -> tuple[Frontend, list[Query]]:
    """Return two held queries: two replicas are idle and the arrival rate is high."""
    frontend = frontend_with(2, **options)
    frontend.version().batcher.rate.observe(500, frontend.clock())
    queries = send(frontend, 2, within_s=0.1)
    assert [replica.sizes for replica in frontend.replicas] == [[], []]
    return frontend, queries


def overdue(
    num_replicas: int = 2, *, within_s: float = 1.0, **options: object
) -> tuple[Frontend, Query]:
    """Return an overdue query at the first replica: after 27 ms instead of 10.5."""
    frontend = frontend_with(num_replicas, **options)
    [query] = send(frontend, within_s=within_s)
    assert frontend.replicas[0].num_in_flight == 1
    frontend.loop.advance(0.027)
    return frontend, query
