import pytest

from skysail_common.clock import NEVER
from skysail_common.identifiers import ModelVersion
from skysail_frontend.core.batching.latency_profile import LatencyProfile
from skysail_frontend.core.load import LoadMeter, VersionLoad, capacity
from skysail_frontend.core.statistics import VersionStatistics
from unit.frontend.parts import FakeReplica, Frontend, application, served

M1 = ModelVersion("m", "1")
POINTS = [(rows, 0.010 + 0.0005 * rows) for rows in (1, 2, 4, 8, 16, 32, 64)]


@pytest.fixture
def frontend() -> Frontend:
    return Frontend(served(), max_queue_size=4)


def look(loads: LoadMeter, frontend: Frontend) -> VersionLoad | None:
    return loads.measure(frontend.version(), frontend.clock())


def answer(frontend: Frontend, replica: FakeReplica, took_s: float, compute_s: float) -> None:
    frontend.loop.turn()
    frontend.loop.advance(took_s)
    replica.answer(compute_s=compute_s)


# Differences.


def test_a_load_covers_the_time_since_the_last_measurement(frontend):
    loads = LoadMeter()
    frontend.submit(rows=3)
    answer(frontend, frontend.replica, took_s=0.01, compute_s=0.01)
    assert look(loads, frontend) is None
    frontend.loop.advance(2.0)
    assert look(loads, frontend) == VersionLoad(
        pytest.approx(2.0), 0, 0, 0.0, pytest.approx(300.0), 0.0
    )
    frontend.submit(rows=1)
    frontend.submit(rows=3)
    answer(frontend, frontend.replica, took_s=0.08, compute_s=0.05)
    frontend.loop.advance(0.42)
    load = look(loads, frontend)
    assert load is not None
    assert (load.arrived_rows, load.late_rows) == (4, 0)
    assert load.window_s == pytest.approx(0.5)
    assert load.busy_s == pytest.approx(0.05)
    assert load.deadline_used == pytest.approx(0.8)
    assert load.capacity_rows_per_s > 0
    frontend.loop.advance(1.0)
    again = look(loads, frontend)
    assert again is not None
    assert (again.arrived_rows, again.busy_s, again.deadline_used) == (0, 0.0, 0.0)


def test_the_used_share_is_that_of_the_most_urgent_query(frontend):
    loads = LoadMeter()
    look(loads, frontend)
    frontend.submit(within_s=0.5)
    frontend.submit(within_s=0.1)
    answer(frontend, frontend.replica, took_s=0.08, compute_s=0.08)
    load = look(loads, frontend)
    assert load is not None
    assert load.deadline_used == pytest.approx(0.8)


def test_two_measurements_at_one_instant_give_one_load(frontend):
    loads = LoadMeter()
    assert look(loads, frontend) is None
    assert look(loads, frontend) is None


def test_a_redeployed_version_starts_a_new_measurement(frontend):
    loads = LoadMeter()
    look(loads, frontend)
    frontend.submit(rows=2)
    frontend.apply()
    frontend.apply(served())
    frontend.loop.advance(1.0)
    assert look(loads, frontend) is None
    frontend.loop.advance(1.0)
    assert look(loads, frontend) == VersionLoad(1.0, 0, 0, 0.0, 0.0, 0.0)


def test_versions_that_are_not_kept_are_forgotten(frontend):
    loads = LoadMeter()
    look(loads, frontend)
    frontend.loop.advance(1.0)
    loads.keep_only([M1])
    assert look(loads, frontend) is not None
    loads.keep_only([])
    frontend.loop.advance(1.0)
    assert look(loads, frontend) is None


# Late rows.


def test_rows_that_an_idle_replica_would_have_answered_are_late(frontend):
    frontend.version().batcher.profile.seed(POINTS)
    frontend.submit(within_s=1.0)
    frontend.loop.turn()
    frontend.submit(rows=3, within_s=0.1)
    frontend.loop.advance(0.2)
    statistics = frontend.version().statistics
    assert statistics.late_rows == 3
    frontend.submit(rows=4, within_s=1.0)
    frontend.submit(rows=4, within_s=1.0)
    # The queue is full.
    assert statistics.late_rows == 7
    # No replica could answer the query within this budget.
    frontend.submit(rows=1, within_s=0.005)
    assert statistics.late_rows == 7


def test_rows_without_a_replica_are_not_late():
    frontend = Frontend(served(), applications=[application("app", "m:1")], with_replicas=False)
    frontend.submit(within_s=0.1)
    frontend.loop.advance(0.2)
    assert frontend.version().statistics.late_rows == 0


# Capacity.


@pytest.mark.parametrize(
    ("budget_s", "max_rows", "rows"),
    [
        # 2 · l(30) = 50 ms.
        (0.050, 64, 30),
        (0.050, 16, 16),
        (10.0, 64, 64),
        (NEVER, 64, 64),
        # Two batches of one row are late, so that rows are computed one by one.
        (0.015, 64, 1),
    ],
)
def test_the_capacity_is_that_of_the_largest_batches_of_which_two_are_in_time(
    budget_s, max_rows, rows
):
    found = capacity(LatencyProfile(POINTS), budget_s, max_rows)
    assert found == pytest.approx(rows / (0.010 + 0.0005 * rows))


def test_the_capacity_is_unknown_without_latencies_or_deadlines():
    assert capacity(LatencyProfile(), 1.0, 64) == 0
    assert capacity(LatencyProfile(POINTS), 0.0, 64) == 0


def test_short_budgets_dominate_the_usual_budget():
    statistics = VersionStatistics()
    assert statistics.usual_budget_s == 0
    statistics.observe_answer(0.01, NEVER)
    assert statistics.usual_budget_s == NEVER
    for _ in range(200):
        statistics.observe_answer(0.01, 0.02)
        statistics.observe_answer(0.01, 60.0)
    assert statistics.usual_budget_s == pytest.approx(0.04, rel=0.1)
    # The usual budget follows a change of the SLO.
    for _ in range(200):
        statistics.observe_answer(0.01, 1.0)
    assert statistics.usual_budget_s == pytest.approx(1.0, rel=0.01)
    statistics.observe_answer(0.01, 0.0)
    assert sum(statistics.deadline_used.counts) == 601
