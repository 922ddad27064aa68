"""The results, as tables and as JSON."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.goodput import Goodput

RESULTS = Path(__file__).resolve().parent / "results" / "latest.json"


@dataclass(frozen=True)
class CellKey:
    """The key of one cell of the table."""

    system: str
    transport: str
    model: str
    mode: str
    callers: int


def machine() -> str:
    """Return a description of this machine in one line."""
    gib = psutil.virtual_memory().total / 2**30
    cores = psutil.cpu_count()
    return f"{cores} cores ({platform.machine()}), {gib:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def cell_of(key: CellKey, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians and the spread of all rounds of one cell."""
    figures = ("requests_per_s", "p50_ms", "p99_ms", "server_cpu_us", "client_cpu_us", "stolen")
    cell: dict[str, Any] = asdict(key)
    for figure in figures:
        cell[figure] = round(median(each[figure] for each in rounds), 3)
    cell["parts_us"] = {
        part: round(median(each["parts_us"][part] for each in rounds), 1)
        for part in rounds[0]["parts_us"]
    }
    rates = [each["requests_per_s"] for each in rounds]
    cell["spread"] = round((max(rates) - min(rates)) / max(median(rates), 1e-9), 3)
    cell["num_failed"] = sum(
        number for each in rounds for code, number in each["codes"].items() if code != "0"
    )
    return cell


def print_cells(
    console: Console, cells: Sequence[dict[str, Any]], failures: Mapping[CellKey, str]
) -> None:
    """Print a table of closed loops, and below it the reasons of missing results."""
    table = Table(title="closed loop", header_style="bold", title_justify="left")
    for name in ("model", "mode", "callers", "system"):
        table.add_column(name, justify="right" if name == "callers" else "left")
    for name in (
        "req/s",
        "p50 ms",
        "p99 ms",
        "server µs",
        "client µs",
        "spread",
        "stolen",
        "failed",
    ):
        table.add_column(name, justify="right")
    last = None
    for cell in sorted(cells, key=lambda cell: (cell["model"], cell["mode"], cell["callers"])):
        group = (cell["model"], cell["mode"], cell["callers"])
        if last not in (None, group):
            table.add_section()
        last = group
        table.add_row(
            cell["model"], cell["mode"], str(cell["callers"]), cell["system"],
            f"{cell['requests_per_s']:.0f}", f"{cell['p50_ms']:.2f}", f"{cell['p99_ms']:.2f}",
            f"{cell['server_cpu_us']:.0f}", f"{cell['client_cpu_us']:.0f}",
            f"{100 * cell['spread']:.0f} %", f"{100 * cell['stolen']:.0f} %",
            str(cell["num_failed"]),
        )  # fmt: skip
    console.print(table)
    for key, note in failures.items():
        place = f"{key.system}, {key.model}, {key.mode}, {key.callers} callers"
        console.print(f"  {place}: {note}", style="yellow")


def print_split(
    console: Console,
    cells: Sequence[dict[str, Any]],
    stages: Mapping[str, float],
    links: Mapping[str, Mapping[str, float]],
) -> None:
    """Print the processor time of a query by part, and the cost of a batch on the link.

    Args:
        console: Console to print on.
        cells: Results of `cell_of`.
        stages: µs per query in the code of the frontend, by stage.
        links: µs per batch on the link, by transport and side.
    """
    for cell in cells:
        if (cell["model"], cell["mode"], cell["callers"]) != ("noop", "unary", 64):
            continue
        if "frontend" in cell["parts_us"]:
            parts = ", ".join(f"{part} {each_us:.1f}" for part, each_us in cell["parts_us"].items())
            console.print(f"{cell['system']}, noop, 64 callers, µs per query: {parts}")
        if cell["system"] == "skysail":
            rest_us = cell["parts_us"]["frontend"] - sum(stages.values())
            split = ", ".join(f"{stage} {each_us:.1f}" for stage, each_us in stages.items())
            console.print(f"  its frontend: {split}, transport and event loop {rest_us:.1f}")
    for name, found in links.items():
        sides_us = found["frontend_us"], found["model_server_us"]
        console.print(
            f"link on {name}, a batch of 16 rows: {sides_us[0]:.1f} + {sides_us[1]:.1f} = "
            f"{sum(sides_us):.1f} µs"
        )


def print_ratios(console: Console, cells: Sequence[dict[str, Any]]) -> None:
    """Print the ratio of Skysail to each other system in the same cell."""
    ours = {
        (cell["model"], cell["mode"], cell["callers"]): cell["requests_per_s"]
        for cell in cells
        if cell["system"] == "skysail"
    }
    for cell in cells:
        rate = ours.get((cell["model"], cell["mode"], cell["callers"]))
        if rate and cell["system"] != "skysail" and cell["requests_per_s"]:
            console.print(
                f"  {cell['model']:<5} {cell['mode']:<6} {cell['callers']:>3} callers: "
                f"skysail = {rate / cell['requests_per_s']:.2f} × {cell['system']}"
            )


def write(
    cells: Sequence[dict[str, Any]],
    failures: Mapping[CellKey, str],
    goodput: Sequence[Goodput],
    links: Mapping[str, Mapping[str, float]],
    path: Path,
) -> None:
    """Write all results as JSON."""
    path.parent.mkdir(exist_ok=True)
    result = {
        "machine": machine(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cells": list(cells),
        "failures": [{**asdict(key), "note": note} for key, note in failures.items()],
        "goodput": [asdict(each) for each in goodput],
        "links": dict(links),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
