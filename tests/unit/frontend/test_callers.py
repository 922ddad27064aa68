"""Callers whose callbacks fail, who leave early, or whose queries exceed the memory."""

import pytest

from skysail_common.errors import Overloaded
from skysail_frontend.core.batching.policies import ShedReason
from skysail_frontend.core.routes import Application
from unit.frontend.parts import Frontend, application, doubled, served

with_default = application("with-default", "m:1", default=[0.0])

# Callbacks that fail.


def test_a_failed_expiry_does_not_stop_other_deadlines(caplog):
    frontend = Frontend(served(), with_replicas=False)
    deadlines = frontend.dispatcher._deadlines
    expire, failed = deadlines._expire, []

    def failing_once(query, now):
        if not failed:
            failed.append(query)
            raise RuntimeError("unexpected")
        expire(query, now)

    deadlines._expire = failing_once
    queries = [frontend.submit(within_s=each) for each in (0.1, 0.1, 0.3)]
    frontend.loop.advance(0.2)
    assert failed == queries[:1]
    assert queries[1] in frontend.settled
    frontend.loop.advance(0.2)
    assert queries[2] in frontend.settled
    later = frontend.submit(within_s=0.1)
    frontend.loop.advance(0.2)
    assert later in frontend.settled
    assert "query expiry failed" in caplog.text


def test_failing_callbacks_do_not_keep_other_queries_from_their_answers():
    frontend = Frontend(served(), with_replicas=False)

    def settle(query, prediction):
        raise RuntimeError("always")

    bad = frontend.query(within_s=0.1)
    bad.settle = settle
    frontend.dispatcher.submit(bad)
    good = frontend.submit(within_s=0.1)
    frontend.loop.advance(0.2)
    assert good in frontend.settled
    assert frontend.dispatcher.num_unsettled == 0


# Callers that leave early.


def cancelled_at(share: float, app: Application | None = None, **options: object) -> Frontend:
    """Cancel a query after a share of its 100 ms."""
    frontend = Frontend(served(), applications=[app] if app else [])
    query = frontend.submit(within_s=0.1, application=app, **options)
    frontend.loop.turn()
    frontend.loop.advance(share * 0.1)
    frontend.dispatcher.cancel(query)
    assert query not in frontend.settled
    assert frontend.dispatcher.num_unsettled == frontend.dispatcher.unsettled_bytes == 0
    return frontend


@pytest.mark.parametrize(("share", "is_late"), [(0.0, False), (0.9, False), (0.96, True)])
@pytest.mark.parametrize("app", [None, application("app", "m:1"), with_default])
@pytest.mark.parametrize("rows", [1, 20])
def test_a_query_cancelled_at_its_deadline_counts_as_expired(share, is_late, app, rows):
    frontend = cancelled_at(share, app, rows=rows)
    (target,) = frontend.dispatcher.statistics.targets.values()
    counted = sum(target.outcomes.values())
    assert (counted, target.num_cancelled) == ((1, 0) if is_late else (0, 1))
    version = frontend.version().statistics
    assert version.sheds[ShedReason.EXPIRED] == is_late
    assert version.late_rows == (rows if is_late else 0)
    refused = frontend.dispatcher.statistics.refusals.by_class
    assert refused["DeadlineExceeded"] == (is_late and app is not with_default)


# Memory.


def test_the_inputs_of_unsettled_queries_are_bounded():
    frontend = Frontend(served(), served("m:2"), max_queue_bytes=100, with_replicas=False)
    first, second = frontend.submit(rows=2), frontend.submit("m:2", rows=2)
    third = frontend.submit(rows=1)
    error = frontend.settled[third].error
    assert isinstance(error, Overloaded)
    assert error.backlog.reason == "memory_full"
    frontend.dispatcher.cancel(first)
    assert frontend.submit(rows=1) not in frontend.settled
    assert second not in frontend.settled
    frontend.loop.advance(1.0)
    assert frontend.dispatcher.unsettled_bytes == 0


def test_a_split_query_counts_once():
    frontend = Frontend(served(max_batch_size=4), with_replicas=False)
    query = frontend.query(rows=10)
    size_bytes = query.input_bytes
    frontend.dispatcher.submit(query)
    assert frontend.dispatcher.unsettled_bytes == size_bytes == 10 * 24
    frontend.loop.advance(1.0)
    assert frontend.dispatcher.unsettled_bytes == 0


def test_one_query_may_be_larger_than_the_memory_for_all():
    frontend = Frontend(served(), max_queue_bytes=10, with_replicas=False)
    assert frontend.submit(rows=2) not in frontend.settled


# Removed applications.


def test_statistics_of_a_removed_application_are_removed():
    app, other = application("app", "m:1"), application("other", "m:1")
    frontend = Frontend(served(), applications=[app, other], function=doubled)
    for each in (app, other, None):
        frontend.submit(application=each)
    frontend.loop.turn()
    statistics = frontend.dispatcher.statistics
    assert {name for name, _ in statistics.targets} == {"app", "other", ""}
    frontend.apply(served(), applications=[other])
    assert {name for name, _ in statistics.targets} == {"other", ""}
