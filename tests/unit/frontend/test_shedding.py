import re

import pytest

from skysail_common.errors import DeadlineExceeded
from skysail_common.rpc.statuses import trailers_of
from unit.frontend.doors import HttpDoors
from unit.frontend.known_latency import frontend_with, send
from unit.frontend.parts import Frontend, TurningLoop, served

RETRY_KEYS = {"estimated-wait-ms", "retry-after-ms", "grpc-status-details-bin"}


def refused(frontend: Frontend, **options: object) -> DeadlineExceeded:
    """Submit a query that is shed, and return its error."""
    [query] = send(frontend, **options)
    error = frontend.settled[query].error
    assert type(error) is DeadlineExceeded
    return error


def test_a_query_with_too_short_a_budget_gets_no_advice_to_retry():
    frontend = frontend_with(1)
    # A batch was just sent, so that no probe is needed.
    send(frontend, within_s=10.0)
    error = refused(frontend, within_s=0.005)
    assert error.message == (
        "model 'm:1' cannot answer within 0.005 s: it takes 0.011 s even with an empty queue; "
        "set a longer SLO or timeout"
    )
    assert error.backlog.reason == "hopeless"
    trailers = dict(trailers_of(error))
    assert trailers["shed-reason"] == "hopeless"
    assert not RETRY_KEYS & set(trailers)


def test_an_expired_query_with_too_short_a_budget_gets_no_advice_to_retry():
    frontend = frontend_with(1)
    [probe] = send(frontend, within_s=0.005)
    assert frontend.replicas[0].sizes == [1]
    frontend.loop.advance(0.006)
    error = frontend.settled[probe].error
    assert "it takes 0.011 s even with an empty queue" in error.message
    assert error.backlog.reason == "expired"
    assert not RETRY_KEYS & set(dict(trailers_of(error)))


def test_a_query_shed_for_a_long_queue_learns_the_wait_and_when_to_retry():
    frontend = frontend_with(1, max_batch_size=1)
    for _ in range(5):
        send(frontend, within_s=10.0)
    error = refused(frontend, within_s=0.012)
    assert re.fullmatch(
        r"model 'm:1' cannot answer within 0.012 s: the expected wait is 0\.0\d+ s; retry later",
        error.message,
    )
    trailers = dict(trailers_of(error))
    assert set(trailers) >= RETRY_KEYS
    assert int(trailers["retry-after-ms"]) > 10


def test_a_query_that_arrives_after_its_deadline_gets_no_advice_to_retry():
    frontend = frontend_with(1)
    error = refused(frontend, within_s=0.0)
    assert "the deadline had passed when the query arrived" in error.message
    assert not RETRY_KEYS & set(dict(trailers_of(error)))


@pytest.mark.parametrize(("latency_s", "is_advised"), [(0.01, True), (0.05, False)])
async def test_http_headers_advise_to_retry_only_if_that_can_help(latency_s, is_advised):
    frontend = Frontend(served(), loop=TurningLoop, default_timeout_s=0.02)
    frontend.version().batcher.profile.seed([(1, latency_s), (64, latency_s)])
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}
    response = await HttpDoors(frontend).post_and_wait("/v2/models/m/infer", body, 0.03)
    assert response.status_code == 504
    assert response.headers["shed-reason"] == "expired"
    assert ("retry-after" in response.headers) is is_advised
    assert ("retry-after-ms" in response.headers) is is_advised
