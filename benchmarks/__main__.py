"""`make bench`: the query path against raw echoes and peers, in one run on one machine."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import core, goodput, link, load_tool, report, systems
from benchmarks.echo_cpp import NoCompiler
from benchmarks.goodput import Goodput
from benchmarks.load_tool import LoadFailed, ServerDied
from benchmarks.peers import PeerFailed, PeerUnavailable
from benchmarks.report import CellKey
from benchmarks.systems import Running, System
from skysail_common.rpc.transports import TransportName

CALLERS = (1, 16, 64)
SLO_MS = 50.0
_MAX_STOLEN = 0.05
_TRIES = 3
_BATCH_ROWS = 16
"""Rows of a usual batch with 64 callers."""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks that the arguments select and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, under 2 minutes")
    parser.add_argument("--peers", default="triton,mlserver", help="peers to measure, if installed")
    parser.add_argument(
        "--transports", default="native,grpc", help="transports to measure, if installed"
    )
    parser.add_argument("--models", default="noop,lr,rf")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--skip", default="", help="loop to skip: closed or open")
    parser.add_argument("--output", default=str(report.RESULTS))
    options = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if os.isatty(1) else 120)
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or 1.0
    models = options.models.split(",")
    load_tool.build()
    with ExitStack() as stack:
        started: list[Running] = []

        def start(context: Callable[[], AbstractContextManager[System]]) -> None:
            started.append(stack.enter_context(Running(context)))

        transports: list[TransportName] = options.transports.split(",")
        if "native" in transports and find_spec("skysail_transport") is None:
            console.print("native skipped: skysail-transport is not installed", style="yellow")
            transports.remove("native")
        for transport in transports:
            echo = "aio" if transport == "grpc" else transport
            start(partial(systems.echo_system, echo))
            start(partial(systems.skysail_system, transport))
        try:
            start(partial(systems.echo_system, "cpp"))
        except NoCompiler as error:
            console.print(f"echo in C++ skipped: {error}", style="yellow")
        for name in filter(None, options.peers.split(",")):
            try:
                start(partial(systems.peer_system, name))
            except (PeerFailed, PeerUnavailable) as error:
                console.print(f"{name} skipped: {error}", style="yellow")
        cells: list[dict[str, Any]] = []
        failures: dict[CellKey, str] = {}
        found: list[Goodput] = []
        links: dict[str, dict[str, float]] = {}
        if options.skip != "closed":
            cells, failures = closed_loops(console, started, models, rounds, seconds)
            report.print_cells(console, cells, failures)
            report.print_ratios(console, cells)
            links = {name: link.measure(name) for name in transports}
            report.print_split(console, cells, core.measure(_BATCH_ROWS), links)
        # The open loops take several minutes; an interrupted run keeps the results so far.
        report.write(cells, failures, found, links, Path(options.output))
        if options.skip != "open":
            kept = [name for name in ("lr", "rf") if name in models]
            found = open_loops(console, started, kept, cells, seconds)
            goodput.print_table(console, found)
    console.print(report.machine(), style="dim")
    report.write(cells, failures, found, links, Path(options.output))
    return 0


def undisturbed(
    running: Running, door: str, model: str, mode: str, seconds: float, **options: Any
) -> dict[str, Any]:
    """Return the first run with little stolen time, or the best of a few.

    Raises:
        LoadFailed: the load tool gave no result.
    """
    results: list[dict[str, Any]] = []
    while len(results) < _TRIES:
        results.append(running.measure(door, model, mode, seconds, **options))
        if results[-1]["stolen"] <= _MAX_STOLEN:
            break
    return min(results, key=lambda result: float(result["stolen"]))


def closed_loops(
    console: Console, started: Sequence[Running], models: Sequence[str], rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[CellKey, str]]:
    """Measure all systems in interleaved rounds; return their cells and the reasons of failures."""
    found: dict[CellKey, list[dict[str, Any]]] = {}
    failures: dict[CellKey, str] = {}
    for number in range(rounds):
        for model, callers, running in product(models, CALLERS, started):
            system = running.system
            if model not in system.models:
                continue
            for mode, path in (("closed", system.unary), ("stream", system.stream)):
                if not path:
                    continue
                shown = "unary" if mode == "closed" else mode
                key = CellKey(system.name, system.transport, model, shown, callers)
                try:
                    result = undisturbed(running, "grpc", model, mode, seconds, callers=callers)
                except ServerDied as error:
                    failures[key] = f"died: {error}"
                except LoadFailed as error:
                    failures[key] = f"no result: {error}"
                else:
                    found.setdefault(key, []).append(result)
        console.print(f"round {number + 1} of {rounds} done", style="dim")
    return [report.cell_of(key, results) for key, results in found.items()], failures


def open_loops(
    console: Console,
    started: Sequence[Running],
    models: Sequence[str],
    cells: Sequence[dict[str, Any]],
    seconds: float,
) -> list[Goodput]:
    """Return the goodput of every system that serves the protocol, by model and door."""
    best = {(cell["system"], cell["model"]): cell["requests_per_s"] for cell in cells
            if cell["callers"] == max(CALLERS) and cell["mode"] == "unary"}  # fmt: skip
    found = []
    for model, door, running in product(models, ("grpc", "http"), started):
        if not running.system.http_address:
            continue

        def offer(
            rate: float,
            length_s: float,
            door: str = door,
            model: str = model,
            running: Running = running,
        ) -> dict[str, Any]:
            options: dict[str, Any] = {"rate": rate, "timeout_ms": int(SLO_MS), "slo_ms": SLO_MS}
            if door == "grpc":
                options["connections"] = 8
            return undisturbed(running, door, model, "open", length_s, **options)

        name = running.system.name
        # HTTP costs a frontend several times as much per request.
        guess = best.get((name, model), 1000.0) / (1 if door == "grpc" else 4)
        found.append(goodput.measure(offer, name, door, model, SLO_MS, guess, seconds))
        console.print(f"open loop of {name}, {model}, {door} done", style="dim")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
