"""The table of `docs/batching.md`, for the policies of this project."""

from dataclasses import replace
from functools import cache

import pytest

from skysail_common.serving_options import PolicyName, ServingOptions
from skysail_frontend.core.batching.simulator import Report, Workload, simulate

POLICIES = {
    "hybrid": ServingOptions(),
    "eager": ServingOptions(policy=PolicyName.EAGER),
    "fixed": ServingOptions(policy=PolicyName.FIXED, max_queue_delay_s=0.005),
    "aimd": ServingOptions(policy=PolicyName.AIMD),
    "quantile": ServingOptions(policy=PolicyName.QUANTILE),
}


def line(rows: int) -> float:
    return 0.010 + 0.0005 * rows


BASE = 4 * 30 / line(30)
"""Rows per second that four replicas answer if a query may wait for a batch before its own."""


@cache
def report_of(policy: str, load: float, **changes: object) -> Report:
    workload = Workload(load * BASE, 0.050, line, num_queries=6000)
    return simulate(POLICIES[policy], replace(workload, **changes))


@pytest.mark.parametrize(("load", "share"), [(0.95, 0.98), (1.2, 0.85), (2.0, 0.5)])
def test_hybrid_answers_most_queries_that_can_be_answered(load, share):
    assert report_of("hybrid", load).share_in_time >= share


@pytest.mark.parametrize("other", ["eager", "fixed"])
@pytest.mark.parametrize("load", [1.05, 1.2, 2.0])
def test_hybrid_beats_policies_without_shedding_under_overload(load, other):
    hybrid = report_of("hybrid", load).share_in_time
    assert hybrid > report_of(other, load).share_in_time + 0.05


def test_a_policy_without_shedding_collapses_under_overload():
    assert report_of("eager", 2.0).share_in_time < 0.1
    assert report_of("fixed", 2.0).share_in_time < 0.1


def test_more_load_does_not_make_hybrid_answer_less():
    answered = [load * report_of("hybrid", load).share_in_time for load in (0.95, 1.2, 2.0)]
    assert answered == sorted(answered)


def test_hybrid_sheds_on_arrival_under_overload():
    assert report_of("hybrid", 2.0).median_refusal_s < 0.005


@pytest.mark.parametrize("policy", POLICIES)
def test_a_single_query_is_sent_at_once(policy):
    report = report_of(policy, 0.01, num_queries=300)
    assert report.share_in_time == 1.0
    assert report.median_refusal_s == 0.0
    assert report.mean_batch_size < 1.4
    delay_s = POLICIES[policy].max_queue_delay_s or 0.0
    assert report.mean_latency_s == pytest.approx(line(1) + delay_s, rel=0.05)


@pytest.mark.parametrize("policy", ["aimd", "quantile"])
def test_the_policies_of_clipper_keep_up_with_a_usual_load(policy):
    report = report_of(policy, 0.7)
    assert report.share_in_time > 0.9
    assert 1 < report.mean_batch_size < 64


def test_batches_stay_within_the_maximum():
    options = ServingOptions(policy=PolicyName.EAGER, max_batch_size=4)
    report = simulate(options, Workload(2 * BASE, 0.050, line, num_queries=1000))
    assert 3.5 < report.mean_batch_size <= 4


@pytest.mark.parametrize("load", [1.2, 2.0])
def test_hybrid_is_also_better_with_a_single_replica(load):
    hybrid = report_of("hybrid", load / 4, num_replicas=1)
    assert hybrid.share_in_time > report_of("eager", load / 4, num_replicas=1).share_in_time + 0.05


def test_the_same_seed_gives_the_same_report():
    workload = Workload(1.2 * BASE, 0.050, line, num_queries=2000)
    report = simulate(POLICIES["hybrid"], workload)
    assert simulate(POLICIES["hybrid"], workload) == report
    assert simulate(POLICIES["hybrid"], replace(workload, seed=2)) != report


@pytest.mark.parametrize("num_callers", [4, 16, 64])
def test_closed_loop_callers_converge_to_one_batch(num_callers):
    workload = Workload(
        rows_per_s=0.0,
        slo_s=0.2,
        latency=lambda rows: 0.009 + 0.0002 * rows,
        num_replicas=1,
        num_queries=4_000,
        num_callers=num_callers,
        return_s=0.0005,
    )
    held, eager = (
        simulate(ServingOptions(policy=policy), workload)
        for policy in (PolicyName.HYBRID, PolicyName.EAGER)
    )
    assert held.mean_batch_size > 0.8 * num_callers
    # The eager policy forms two cohorts, each with half of the callers.
    assert eager.mean_batch_size < 0.6 * num_callers
    assert held.mean_latency_s < 0.8 * eager.mean_latency_s
