"""Replicas that stop answering, and the advice to callers when to retry."""

import re

import pytest

from skysail_common.errors import ModelFailed, NoReadyReplica, Overloaded
from skysail_frontend.core.batching.batcher import LAST_ATTEMPT
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.query import Outcome, Query
from skysail_frontend.monitoring.metrics import MetricsPage
from unit.frontend.known_latency import (
    frontend_with,
    held,
    line,
    overdue,
    send,
    version_with,
)
from unit.frontend.parts import Frontend

# Replicas that stop answering.


def test_overdue_replicas_do_not_count_for_the_batch_size():
    frontend, _ = overdue(2)
    seen = []
    batcher = frontend.version().batcher
    decide = batcher.decide
    batcher.decide = lambda now, at, number: (seen.append(number), decide(now, at, number))[1]
    frontend.replicas[1].answer()
    send(frontend, within_s=1.0)
    assert seen == [1]


def test_queries_are_queued_while_all_replicas_are_overdue_but_not_stalled():
    frontend, _ = overdue(1, within_s=100.0)
    [query] = send(frontend, within_s=100.0)
    frontend.loop.advance(4.0)
    assert frontend.version().num_ready == 1
    assert query not in frontend.settled
    frontend.replicas[0].answer()
    frontend.loop.turn()
    frontend.replicas[0].answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_queries_are_refused_at_once_while_all_replicas_are_stalled():
    frontend, _ = overdue(2, within_s=100.0)
    frontend.loop.advance(6.0)
    assert [replica.sizes for replica in frontend.replicas] == [[1], [1]]
    version = frontend.version()
    assert version.num_ready == 0
    assert not frontend.dispatcher.is_ready(version.served.name)
    [refused] = send(frontend, within_s=1.0)
    error = frontend.settled[refused].error
    assert type(error) is NoReadyReplica
    assert str(error) == "model 'm:1' has no ready replica: the last batch of each is overdue"
    assert version.statistics.sheds[ShedReason.NO_REPLICA] == 1
    # A replica that answers after all is used again.
    frontend.replicas[1].answer()
    assert version.num_ready == 1
    [query] = send(frontend, within_s=1.0)
    frontend.replicas[1].answer()
    assert frontend.settled[query].outcome is Outcome.OK


def test_the_metrics_show_a_stalled_replica_as_not_ready():
    frontend, _ = overdue(2, within_s=100.0)

    def ready() -> list[str]:
        page = MetricsPage(frontend.dispatcher, dict).text().decode()
        return re.findall('skysail_replica_ready{container="(.*?)".* 1.0', page)

    assert ready() == ["c0", "c1"]
    frontend.replicas[1].answer()
    frontend.loop.advance(6.0)
    assert ready() == ["c1"]
    frontend.replicas[0].answer()
    assert ready() == ["c0", "c1"]


def test_a_slow_model_is_stalled_only_after_a_multiple_of_its_latency():
    frontend = frontend_with(1, is_known=False)
    frontend.version().batcher.profile.seed([(1, 2.0)])
    send(frontend, within_s=100.0)
    frontend.loop.advance(2 * 2.0 + 0.005 + 9 * 2.0)
    assert frontend.version().num_ready == 1
    frontend.loop.advance(2.1)
    assert frontend.version().num_ready == 0


def test_a_query_that_hangs_replicas_does_not_hang_all_of_them():
    frontend = frontend_with(6)
    [query] = send(frontend, within_s=1000.0)
    for _ in range(20):
        frontend.loop.advance(1.0)
    assert [replica.sizes for replica in frontend.replicas] == [[1], [1], [], [], [], []]
    # A watchdog kills the replicas one after the other.
    for index in (0, 1, 2):
        frontend.replicas[index].lose()
        frontend.loop.advance(1.0)
    assert isinstance(frontend.settled[query].error, ModelFailed)
    assert sum(len(replica.sent) for replica in frontend.replicas) == LAST_ATTEMPT + 1


def test_the_second_batch_of_an_overdue_replica_starts_after_the_first():
    frontend = frontend_with(1, max_batch_size=1)
    send(frontend, 2, within_s=100.0)
    late, second = frontend.replicas[0].in_flight
    frontend.loop.advance(1.0)
    assert frontend.version()._overdue == {frontend.replicas[0]: late}
    frontend.replicas[0].answer(late)
    frontend.loop.turn()
    assert not frontend.version()._overdue
    assert second.overdue_at == pytest.approx(frontend.clock() + 2 * line(1) + 0.005)
    assert second.queries[0].attempts == 0


def test_a_failed_dispatch_does_not_stop_later_ones(caplog):
    frontend, queries = held()
    version = frontend.version()
    dispatch, version.dispatch = version.dispatch, None
    frontend.loop.advance(0.09)
    assert "dispatch failed" in caplog.text
    version.dispatch = dispatch
    more = send(frontend, within_s=1.0)
    frontend.loop.advance(1.0)
    for replica in frontend.replicas:
        while replica.in_flight:
            replica.answer()
    assert all(query in frontend.settled for query in (*queries, *more))


# Advice to retry.


def wait_ms(frontend: Frontend, query: Query) -> float:
    return frontend.settled[query].error.backlog.wait_s * 1000


def test_a_query_with_a_budget_below_the_latency_gets_no_advice_to_retry():
    frontend = frontend_with(1, is_known=False)
    frontend.version().batcher.profile.seed([(1, 2.0)])
    for query in [send(frontend, within_s=0.5)[0] for _ in range(2)]:
        frontend.loop.advance(0.5)
        assert frontend.settled[query].error.backlog.wait_s is None


def test_a_shed_query_is_advised_to_retry_after_the_batches_in_flight():
    frontend = frontend_with(1, is_known=False, max_batch_size=1)
    frontend.version().batcher.profile.seed([(1, 2.0)])
    for _ in range(3):
        send(frontend, within_s=100.0)
    [query] = send(frontend, within_s=2.5)
    # Three queries are computed before this one, each in 2 s.
    assert wait_ms(frontend, query) == pytest.approx(8000.0)


def test_a_retry_waits_as_long_as_the_query_did_while_latencies_are_unknown():
    frontend = frontend_with(1, is_known=False)
    [query] = send(frontend, within_s=0.5)
    frontend.loop.advance(0.5)
    assert wait_ms(frontend, query) == pytest.approx(500.0)


def test_a_full_queue_advises_to_retry_once_it_is_computed():
    frontend = Frontend(version_with(max_batch_size=8), with_replicas=False, max_queue_size=16)
    frontend.add_replica()
    frontend.version().batcher.profile.seed([(1, 0.1), (8, 0.1)])
    for number in (8, 8, 16):
        send(frontend, number, within_s=100.0)
    [refused] = send(frontend, within_s=100.0)
    assert isinstance(frontend.settled[refused].error, Overloaded)
    assert wait_ms(frontend, refused) == pytest.approx(500.0)


def test_a_query_that_arrives_after_its_deadline_gets_the_reason():
    frontend = frontend_with(1)
    [query] = send(frontend, within_s=-0.001)
    text = "cannot query model 'm:1': the deadline had passed when the query arrived"
    assert str(frontend.settled[query].error) == text
