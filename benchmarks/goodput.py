"""The open loop: the goodput of a system within the SLO, up to its best rate and beyond it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.load_tool import LoadFailed, ServerDied

LOADS = (80, 100, 120, 150, 200)
"""Offered rates, in percent of the best rate."""
_IN_TIME = 0.99
_HALVINGS = 5
_MAX_STEPS = 20

Offer = Callable[[float, float], dict[str, Any]]
"""Offers requests at a rate for some seconds and returns the report of the load tool.

Raises `ServerDied` or `LoadFailed` if there is no result.
"""


@dataclass(frozen=True)
class Overload:
    """The results at one offered rate."""

    percent: int
    """Offered rate in percent of the best rate."""
    rate: float
    """Offered requests per second."""
    in_time: float | None = None
    """Share of the offered requests that was answered within the SLO; None without a result."""
    goodput: float | None = None
    """Answers within the SLO per second, relative to the best rate."""
    refusal_p99_ms: float = 0.0
    lag_p99_ms: float = 0.0
    """Delay of the client in sending, which the latency includes."""
    note: str = ""
    """Reason of a missing result."""


@dataclass(frozen=True)
class Goodput:
    """The goodput of a system, by door and model."""

    system: str
    door: str
    """`grpc` or `http`."""
    model: str
    slo_ms: float
    max_rate: float | None
    """Highest rate per second at which 99 % are in time; None without a result."""
    loads: tuple[Overload, ...]
    note: str
    """Reason of a missing rate, or the rate at which the system died."""


def measure(
    offer: Offer, system: str, door: str, model: str, slo_ms: float, guess: float, seconds: float
) -> Goodput:
    """Return the highest rate at which 99 % are in time, and the results around that rate.

    Args:
        offer: Offers a rate to the system.
        system: Name of the system.
        door: `grpc` or `http`.
        model: Name of the model.
        slo_ms: Milliseconds within which an answer is in time.
        guess: Rate that a closed loop reached.
        seconds: Duration of one step of the search.
    """
    try:
        best, note = _best_rate(offer, guess, seconds)
    except LoadFailed as error:
        return Goodput(system, door, model, slo_ms, None, (), f"no result: {error}")
    if best == 0.0:
        note = note or f"meets {slo_ms:g} ms at no tested rate"
        return Goodput(system, door, model, slo_ms, None, (), note)
    loads = tuple(_overload(offer, percent, best, 2 * seconds) for percent in LOADS)
    return Goodput(system, door, model, slo_ms, round(best, 1), loads, note)


def _best_rate(offer: Offer, guess: float, seconds: float) -> tuple[float, str]:
    """Search the highest rate at which 99 % are in time; return it with a note if the system died.

    The rate grows from that of a closed loop until it fails. A bisection follows. Two of three
    tries decide, because a shared machine pauses now and then, and some systems meet the SLO beyond
    their best rate by chance.
    """
    low, high, rate, note = 0.0, math.inf, 0.8 * guess, ""
    num_halved = 0
    for _ in range(_MAX_STEPS):
        try:
            is_kept = _keeps(offer, rate, seconds)
        except ServerDied as error:
            is_kept, note = False, f"died at {rate:.0f}/s: {error}"
        low, high = (rate, high) if is_kept else (low, rate)
        num_halved += high < math.inf
        if num_halved == _HALVINGS:
            break
        rate = min(1.5 * rate, (low + high) / 2)
    return low, note


def _keeps(offer: Offer, rate: float, seconds: float) -> bool:
    first, second = (_share(offer(rate, seconds)) >= _IN_TIME for _ in range(2))
    return first if first == second else _share(offer(rate, seconds)) >= _IN_TIME


def _share(report: dict[str, Any]) -> float:
    if not report["offered"]:
        raise LoadFailed("the load tool offered nothing")
    return float(report["in_slo"]) / float(report["offered"])


def _overload(offer: Offer, percent: int, best: float, seconds: float) -> Overload:
    rate = best * percent / 100
    try:
        report = offer(rate, seconds)
        in_time = _share(report)
    except ServerDied as error:
        return Overload(percent, rate, note=f"died at {rate:.0f}/s: {error}")
    except LoadFailed as error:
        return Overload(percent, rate, note=f"no result: {error}")
    return Overload(
        percent,
        round(rate, 1),
        round(in_time, 4),
        round(report["in_slo"] / seconds / best, 3),
        report["refusal_p99_ms"],
        report["lag_p99_ms"],
    )


def print_table(console: Console, found: Sequence[Goodput]) -> None:
    """Print a table of open loops, and below it the reasons of missing results."""
    if not found:
        return
    title = (
        f"open loop, by offered rate, within {found[0].slo_ms:g} ms\n"
        "above: share in time of the offered rate · of the best rate\n"
        "below: refusal p99 · lag of the client p99"
    )
    table = Table(title=title, header_style="bold", title_justify="left")
    for name in ("model", "door", "system"):
        table.add_column(name)
    table.add_column("99 % up to, req/s", justify="right")
    for percent in LOADS:
        table.add_column(f"{percent} %", justify="right")
    for each in sorted(found, key=lambda each: (each.model, each.door, each.system)):
        rate = "no result" if each.max_rate is None else f"{each.max_rate:.0f}"
        cells = [_cell(load) for load in each.loads]
        table.add_row(each.model, each.door, each.system, rate, *cells)
    console.print(table)
    for each in found:
        for note in (each.note, *(load.note for load in each.loads)):
            if note:
                console.print(f"  {each.system}, {each.model}, {each.door}: {note}", style="yellow")


def _cell(load: Overload) -> str:
    if load.in_time is None or load.goodput is None:
        return load.note.partition(":")[0]
    return (
        f"{100 * load.in_time:.0f} · {100 * load.goodput:.0f} %\n"
        f"{load.refusal_p99_ms:.0f} · {load.lag_p99_ms:.0f} ms"
    )
