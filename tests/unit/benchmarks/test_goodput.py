"""The open loop's search, on systems that are functions of the rate."""

from io import StringIO
from typing import Any

from rich.console import Console

from benchmarks import goodput
from benchmarks.goodput import LOADS, Goodput
from benchmarks.load_tool import LoadFailed, ServerDied

BEST = 1000.0


def report(rate: float, seconds: float, in_time: float) -> dict[str, Any]:
    offered = round(rate * seconds)
    return {
        "offered": offered,
        "in_slo": round(offered * in_time),
        "refusal_p99_ms": 7.0,
        "lag_p99_ms": 0.5,
    }


def measured(offer: goodput.Offer) -> Goodput:
    return goodput.measure(offer, "some", "grpc", "lr", 50.0, 300.0, 1.0)


def printed(found: Goodput) -> str:
    output = StringIO()
    goodput.print_table(Console(width=160, file=output), [found])
    return output.getvalue()


def keeps_its_best(rate: float, seconds: float) -> dict[str, Any]:
    return report(rate, seconds, min(1.0, BEST / rate))


def test_the_best_rate_is_found_and_measured_around():
    found = measured(keeps_its_best)
    assert found.max_rate is not None
    assert 0.95 * BEST < found.max_rate < 1.05 * BEST
    assert [load.percent for load in found.loads] == list(LOADS)
    *_, at_200 = found.loads
    assert at_200.in_time is not None
    assert 0.45 < at_200.in_time < 0.55
    assert at_200.goodput is not None
    assert at_200.goodput > 0.95
    assert (at_200.refusal_p99_ms, at_200.lag_p99_ms) == (7.0, 0.5)


def test_a_rate_kept_by_chance_is_not_the_best():
    tries = 0

    def offer(rate: float, seconds: float) -> dict[str, Any]:
        nonlocal tries
        tries += 1
        by_chance = tries % 3 == 0
        return report(rate, seconds, 1.0 if rate < BEST or by_chance else 0.5)

    found = measured(offer)
    assert found.max_rate is not None
    assert found.max_rate < BEST


def test_a_system_that_dies_is_told_with_its_rate():
    def offer(rate: float, seconds: float) -> dict[str, Any]:
        if rate > 1.1 * BEST:
            raise ServerDied("1 of 3 processes of the server ended")
        return keeps_its_best(rate, seconds)

    found = measured(offer)
    assert found.max_rate is not None
    assert found.note.startswith("died at ")
    at_200 = found.loads[-1]
    assert at_200.in_time is None
    assert at_200.goodput is None
    assert at_200.note.startswith(f"died at {2 * found.max_rate:.0f}/s")
    assert f"died at {2 * found.max_rate:.0f}/s" in printed(found)


def test_a_load_tool_that_fails_is_no_figure():
    def offer(rate: float, seconds: float) -> dict[str, Any]:
        raise LoadFailed("cannot connect to 127.0.0.1:1")

    found = measured(offer)
    assert found.max_rate is None
    assert found.note == "no result: cannot connect to 127.0.0.1:1"
    text = printed(found)
    assert "no result: cannot connect to 127.0.0.1:1" in text
    assert " 0 " not in text


def test_a_load_tool_that_fails_beyond_the_best_rate_leaves_the_others():
    def offer(rate: float, seconds: float) -> dict[str, Any]:
        if seconds == 2.0 and rate > 1.4 * BEST:
            raise LoadFailed("it lost its way")
        return keeps_its_best(rate, seconds)

    found = measured(offer)
    assert [load.note for load in found.loads[:3]] == ["", "", ""]
    assert [load.note for load in found.loads[3:]] == ["no result: it lost its way"] * 2
    assert [load.in_time for load in found.loads[3:]] == [None, None]
