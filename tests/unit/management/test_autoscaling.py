"""The policy alone: its decisions for loads, its bounds and its stability."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from skysail_management.reconciler.autoscaling import (
    AutoscalingOptions,
    AutoscalingPolicy,
    Bounds,
    ObservedLoad,
    ScalingDecision,
)

STEP_S = 2.0
OPTIONS = AutoscalingOptions(target=0.7, shrink_after_s=60.0, report_timeout_s=10.0)
BOUNDS = Bounds(1, 20)
CALM = ObservedLoad(0.0, STEP_S, 0, 0, 0.0, 100.0, 0.0)


def load(rows_per_s: float = 0.0, **fields: float) -> ObservedLoad:
    """Return a load report of a frontend, with replicas of 100 rows a second each."""
    return replace(CALM, arrived_rows=round(rows_per_s * STEP_S), **fields)


class World:
    """Replicas that are ready at once, or when a test says so, and a policy that scales them."""

    def __init__(self, bounds: Bounds = BOUNDS, num_replicas: int = 1) -> None:
        self.policy = AutoscalingPolicy(OPTIONS)
        self.bounds = bounds
        self.now = 1000.0
        self.wanted = self.ready = num_replicas
        self.are_ready_at_once = True
        self.policy.decide(bounds, num_replicas, num_replicas, [], self.now)

    def say(self, *loads: ObservedLoad) -> ScalingDecision:
        """Let a report interval pass, at whose end the frontends say this."""
        self.now += STEP_S
        current = [replace(each, received_at=self.now) for each in loads]
        decision = self.policy.decide(self.bounds, self.wanted, self.ready, current, self.now)
        self.wanted = decision.num_replicas
        if self.are_ready_at_once:
            self.ready = self.wanted
        return decision

    def say_for(self, seconds: float, *loads: ObservedLoad) -> list[int]:
        """Repeat a report and return the desired number after each."""
        return [self.say(*loads).num_replicas for _ in range(round(seconds / STEP_S))]

    def serve(
        self, rows_per_s: float, true_capacity: float, budget_share: float = 0.4
    ) -> ScalingDecision:
        """Report as a frontend that learned 100 rows a second, although replicas differ."""
        arrived = rows_per_s * STEP_S
        served = min(arrived, self.ready * true_capacity * STEP_S)
        return self.say(
            load(
                rows_per_s,
                late_rows=round(arrived - served),
                busy_s=served / true_capacity,
                deadline_used=budget_share,
            )
        )


# Growth.


@pytest.mark.parametrize(
    ("rows_per_s", "num_replicas"), [(0, 1), (69, 1), (71, 2), (140, 2), (700, 10), (9000, 20)]
)
def test_replicas_grow_at_once_to_the_arrival_rate(rows_per_s, num_replicas):
    assert World().say(load(rows_per_s)).num_replicas == num_replicas


def test_loads_of_all_frontends_are_added():
    assert World().say(load(140), load(140), load(140)).num_replicas == 6
    # A frontend without latencies uses those of the slowest other one.
    unknown = load(140, capacity_rows_per_s=0.0)
    assert World().say(load(0), unknown).num_replicas == 2


def test_unknown_latency_changes_nothing():
    world = World(num_replicas=3)
    assert set(world.say_for(200, load(500, capacity_rows_per_s=0.0))) == {3}


def test_late_rows_raise_the_number_in_proportion():
    # Each computes 30 rows a second, not 100.
    world = World(num_replicas=4)
    decision = world.serve(200, true_capacity=30)
    assert decision.num_replicas == 8
    assert decision.reason == "160 of 400 rows were not in time"
    # The number at most doubles at once; the rest follows when the new replicas are measured.
    assert [world.serve(200, true_capacity=30).num_replicas for _ in range(5)] == [8] * 5
    world = World(num_replicas=4)
    assert world.serve(265, true_capacity=60).num_replicas == 7


def test_growth_by_retried_rows_is_bounded():
    # 5700 rows a second, of which one replica answers what it can.
    storm = load(5700, late_rows=2 * 5600, busy_s=STEP_S)
    world = World()
    assert world.say(storm).num_replicas == 5
    assert world.say(storm).num_replicas == 10
    # Answered rows count in full.
    assert World().say(load(600, late_rows=2 * 100, busy_s=STEP_S)).num_replicas == 8
    # Starting replicas are not ready.
    world = World()
    world.are_ready_at_once = False
    assert world.say_for(60, storm) == [5] * 30


def test_short_slack_adds_one_replica():
    short = load(30, busy_s=0.8 * STEP_S, deadline_used=0.97)
    decision = World().say(short)
    assert (decision.num_replicas, decision.reason) == (2, "answers take 97% of their time")
    assert World().say(replace(short, deadline_used=0.9)).num_replicas == 1


@pytest.mark.parametrize(
    "fields",
    [
        # Deadlines that nobody could keep: the replicas have nothing to do.
        {"late_rows": 60, "busy_s": 0.1},
        {"deadline_used": 3.0, "busy_s": 0.5 * STEP_S},
        # A pause.
        {"late_rows": 1, "busy_s": 0.3 * STEP_S},
    ],
)
def test_missed_deadlines_of_idle_replicas_add_none(fields):
    assert set(World().say_for(100, load(50 if "late_rows" in fields else 30, **fields))) == {1}


def test_missed_deadlines_add_none_while_replicas_start():
    world = World()
    world.are_ready_at_once = False
    short = load(60, late_rows=12, busy_s=STEP_S)
    assert world.say_for(60, short) == [2] * 30
    # Answered rows do, because they do not depend on the starting replicas.
    assert world.say(replace(short, arrived_rows=600)).num_replicas > 4
    world.ready = world.wanted
    # The report still covers the time before.
    before = world.wanted
    world.policy.decide(BOUNDS, world.wanted, world.ready, [], world.now + 1.5)
    assert world.say(replace(short, arrived_rows=150)).num_replicas == before


# Shrinking.


def test_shrink_halves_the_number_after_each_stable_window():
    world = World(num_replicas=8)
    seen = world.say_for(4 * OPTIONS.shrink_after_s, load(0))
    assert seen[:29] == [8] * 29
    steps = [number for number, before in zip(seen[1:], seen, strict=False) if number != before]
    assert steps == [4, 2, 1]
    assert seen.index(4) * STEP_S >= OPTIONS.shrink_after_s - STEP_S
    assert (seen.index(2) - seen.index(4)) * STEP_S >= OPTIONS.shrink_after_s


def test_recent_peak_prevents_a_shrink():
    world = World(num_replicas=6)
    for _ in range(10):
        world.say_for(OPTIONS.shrink_after_s - 3 * STEP_S, load(0))
        assert world.say(load(400)).num_replicas == 6
    assert min(world.say_for(2 * OPTIONS.shrink_after_s, load(0))) == 3


def test_growth_restarts_the_stable_window():
    world = World()
    world.say_for(200, load(0))
    assert world.say(load(400)).num_replicas == 6
    assert set(world.say_for(OPTIONS.shrink_after_s - STEP_S, load(0))) == {6}


def test_strain_survives_a_stable_load():
    world = World(num_replicas=4)
    seen = {world.serve(200, true_capacity=30).num_replicas for _ in range(3000)}
    assert seen == {8}


def test_strain_decays_eventually():
    world = World(num_replicas=4)
    for _ in range(20):
        world.serve(200, true_capacity=30)
    assert world.wanted == 8
    for _ in range(3000):
        world.serve(200, true_capacity=100)
    assert world.wanted == 4


# Silence.


def test_no_reports_change_nothing():
    world = World(num_replicas=5)
    assert set(world.say_for(500)) == {5}
    # And is no calm.
    assert set(world.say_for(OPTIONS.shrink_after_s - STEP_S, load(0))) == {5}


def test_report_counts_until_it_expires():
    policy = AutoscalingPolicy(OPTIONS)
    other = load(140)

    def wanted(now: float) -> int:
        return policy.decide(
            BOUNDS, 1, 1, [replace(load(0), received_at=now), other], now
        ).num_replicas

    assert wanted(9.9) == 2
    assert wanted(10.1) == 1


# Bounds.


@pytest.mark.parametrize(("num_replicas", "wanted"), [(0, 2), (1, 2), (3, 3), (9, 5)])
def test_bounds_apply_without_reports(num_replicas, wanted):
    assert World(Bounds(2, 5), num_replicas).say().num_replicas == wanted


rates = st.floats(0, 5000)
loads = st.builds(
    ObservedLoad,
    received_at=st.just(0.0),
    window_s=st.floats(0.5, 5.0),
    arrived_rows=st.integers(0, 10_000),
    late_rows=st.integers(0, 10_000),
    busy_s=st.floats(0, 50),
    capacity_rows_per_s=st.sampled_from([0.0, 5e-324, 0.5, 100.0, 1e6]),
    deadline_used=st.floats(0, 5),
)
bounds = st.tuples(st.integers(1, 50), st.integers(0, 50)).map(
    lambda pair: Bounds(pair[0], pair[0] + pair[1])
)


@given(bounds, st.integers(0, 100), st.lists(st.lists(loads, max_size=3), max_size=30), st.data())
def test_decision_is_always_within_the_bounds(bounds, num_replicas, reports, data):
    world = World(bounds, num_replicas)
    world.are_ready_at_once = False
    for each in reports:
        world.ready = data.draw(st.integers(0, 100))
        assert bounds.min_replicas <= world.say(*each).num_replicas <= bounds.max_replicas


@given(st.integers(1, 20), st.lists(st.lists(loads, max_size=3), max_size=60))
def test_shrink_waits_for_the_window_and_halves_at_most(num_replicas, reports):
    world = World(num_replicas=num_replicas)
    changed_at = world.now + STEP_S
    for each in reports:
        before = world.wanted
        after = world.say(*each).num_replicas
        if after < before:
            assert world.now - changed_at >= OPTIONS.shrink_after_s
            assert after >= before / 2
        if after != before:
            changed_at = world.now


@given(rates, st.integers(1, 20), st.floats(0, 0.05), st.integers(0, 99))
def test_steady_load_converges_to_the_needed_number(rate, num_replicas, noise, seed):
    world, random = World(num_replicas=num_replicas), Random(seed)

    def reports(seconds: float) -> list[int]:
        return [
            world.say(load(rate * random.uniform(1 - noise, 1 + noise))).num_replicas
            for _ in range(round(seconds / STEP_S))
        ]

    # From 20 to 1 by halves takes 5 windows.
    reports(7 * OPTIONS.shrink_after_s)
    seen = reports(10 * OPTIONS.shrink_after_s)
    # A peak of the noise may come late; it is followed once and kept.
    assert seen == sorted(seen) or noise
    assert len(set(seen)) <= 2
    least = rate * (1 - noise) / 100 / OPTIONS.target
    most = rate * (1 + noise) / 100 / OPTIONS.target / 0.9
    assert min(seen) >= min(BOUNDS.max_replicas, least - 0.02)
    assert max(seen) <= max(1, most + 1.02)


@given(rates, rates)
def test_higher_load_never_lowers_the_number(one, other):
    assume(one <= other)
    assert World().say(load(one)).num_replicas <= World().say(load(other)).num_replicas


@given(st.floats(1, 600), st.floats(20, 100))
@example(101.25, 20.0)
def test_deadlines_are_eventually_met_at_any_capacity(rate, true_capacity):
    """A world whose learned latencies are up to 5 times too good."""
    assume(rate / true_capacity < 0.69 * BOUNDS.max_replicas)
    world = World()
    for _ in range(20):
        world.serve(rate, true_capacity)
    # Rows that are late are counted whole.
    assert world.ready * true_capacity >= rate * 0.99 - 0.5 / STEP_S
