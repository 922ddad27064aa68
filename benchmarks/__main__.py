"""`make bench`: the query path beside its limit and its peers, in one run on one machine."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import core, link, load_tool, report, systems
from benchmarks.echo_cpp import NoCompiler
from benchmarks.load_tool import Load, LoadFailed
from benchmarks.peers import PeerFailed, PeerUnavailable
from benchmarks.report import CellKey, Goodput
from benchmarks.systems import System
from skysail_common.rpc.transports import TransportName

CALLERS = (1, 16, 64)
SLO_MS = 50.0
_IN_TIME = 0.99
_MAX_STOLEN = 0.05
_TRIES = 3
_HALVINGS = 5
_BATCH_ROWS = 16
"""What 64 callers make of it, about."""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments say and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, under 2 minutes")
    parser.add_argument("--peers", default="triton,mlserver", help="of those installed")
    parser.add_argument("--transports", default="native,grpc", help="of those installed")
    parser.add_argument("--models", default="noop,lr,rf")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--skip", default="", help="closed or open")
    parser.add_argument("--output", default=str(report.RESULTS))
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if os.isatty(1) else 120)
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or 1.0
    models = options.models.split(",")
    load_tool.build()
    with ExitStack() as stack:
        running: list[System] = []
        transports: list[TransportName] = options.transports.split(",")
        if "native" in transports and find_spec("skysail_transport") is None:
            console.print("without native: skysail-transport is not installed", style="yellow")
            transports.remove("native")
        for transport in transports:
            echo = "aio" if transport == "grpc" else transport
            running += stack.enter_context(systems.echo_systems(echo))
            running.append(stack.enter_context(systems.skysail_system(transport)))
        try:
            running += stack.enter_context(systems.echo_systems("cpp"))
        except NoCompiler as error:
            console.print(f"without the echo in C++: {error}", style="yellow")
        for name in filter(None, options.peers.split(",")):
            try:
                running.append(stack.enter_context(systems.peer_system(name)))
            except (PeerFailed, PeerUnavailable) as error:
                console.print(f"without {name}: {error}", style="yellow")
        cells: list[dict[str, Any]] = []
        goodput: list[Goodput] = []
        links: dict[str, dict[str, float]] = {}
        if options.skip != "closed":
            cells = closed_loops(console, running, models, rounds, seconds)
            report.print_cells(console, cells)
            report.print_ratios(console, cells)
            links = {name: link.measure(name) for name in transports}
            report.print_split(console, cells, core.measure(_BATCH_ROWS), links)
        # The rest takes minutes more.
        report.write(cells, goodput, links, Path(options.output))
        if options.skip != "open":
            best = {(cell["system"], cell["model"]): cell["requests_per_s"] for cell in cells
                    if cell["callers"] == max(CALLERS) and cell["mode"] == "unary"}  # fmt: skip
            for model in [name for name in ("lr", "rf") if name in models]:
                for system in running:
                    if system.unary == systems.INFER:
                        guess = best.get((system.name, model), 1000.0)
                        goodput.append(open_loop(console, system, model, guess, seconds))
            report.print_goodput(console, goodput)
    console.print(report.machine(), style="dim")
    report.write(cells, goodput, links, Path(options.output))
    return 0


def undisturbed(load: Load, system: System) -> dict[str, Any]:
    """Return a run in which others had little of this machine, or the best of a few."""
    results: list[dict[str, Any]] = []
    while len(results) < _TRIES:
        results.append(load_tool.run(load, system.parts))
        if results[-1]["stolen"] <= _MAX_STOLEN:
            break
    return min(results, key=lambda result: float(result["stolen"]))


def closed_loops(
    console: Console, running: Sequence[System], models: Sequence[str], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Return the cells of all systems; the rounds of all are interleaved."""
    found: dict[CellKey, list[dict[str, Any]]] = {}
    for number in range(rounds):
        for model in models:
            for callers in CALLERS:
                for system in running:
                    if model not in system.models:
                        continue
                    for mode, path in (("unary", system.unary), ("stream", system.stream)):
                        if not path:
                            continue
                        is_unary = mode == "unary"
                        load = Load(
                            "closed" if is_unary else "stream",
                            system.address,
                            path,
                            system.requests(model),
                            seconds,
                            callers,
                        )
                        key = CellKey(system.name, system.transport, model, mode, callers)
                        try:
                            result = undisturbed(load, system)
                        except LoadFailed as error:
                            console.print(f"{key}: {error}", style="red")
                            continue
                        found.setdefault(key, []).append(result)
        console.print(f"round {number + 1} of {rounds} done", style="dim")
    return [report.cell_of(key, results) for key, results in found.items()]


def open_loop(
    console: Console, system: System, model: str, guess: float, seconds: float
) -> Goodput:
    """Return the highest rate at which enough is in time, and what happens beyond it.

    The rate grows from what a closed loop reached until it fails, and is then searched by bisection.
    One that fails is tried once more: a shared machine pauses now and then, whoever is measured.
    """
    requests = system.requests(model)

    def offer(rate: float, length_s: float) -> dict[str, Any]:
        load = Load(
            "open", system.address, system.unary, requests, length_s, 0, 8, rate,
            timeout_ms=int(SLO_MS), slo_ms=SLO_MS,
        )  # fmt: skip
        try:
            return undisturbed(load, system)
        except LoadFailed as error:
            console.print(f"{system.name}, {model} at {rate:.0f}/s: {error}", style="red")
            return {"in_slo": 0, "offered": 0, "refusal_p50_ms": 0.0}

    def share(result: dict[str, Any]) -> float:
        return float(result["in_slo"]) / max(1, result["offered"])

    low, high, rate = 0.0, math.inf, 0.8 * guess
    num_halved = 0
    while num_halved < _HALVINGS:
        if any(share(offer(rate, seconds)) >= _IN_TIME for _ in range(2)):
            low = rate
        else:
            high = rate
        num_halved += high < math.inf
        rate = min(1.5 * rate, (low + high) / 2)
    best = low
    if best == 0.0:
        console.print(f"{system.name} keeps {SLO_MS:g} ms for {model} at no rate tried")
        return Goodput(system.name, model, SLO_MS, 0.0, 0.0, 0.0, 0.0, 0.0)
    at_120, at_200 = offer(1.2 * best, 2 * seconds), offer(2.0 * best, 2 * seconds)
    in_time_per_s = at_200["in_slo"] / (2 * seconds)
    return Goodput(
        system.name, model, SLO_MS, round(best, 1), round(share(at_120), 4),
        round(share(at_200), 4), at_200["refusal_p50_ms"], round(in_time_per_s / best, 3),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
