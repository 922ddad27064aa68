"""`python -m benchmarks.frames`: queries with data frames beside the same numbers as one tensor.

A cluster of `skysail up` on this machine serves the same sum twice: as a function of an array [rows,
10] and as a function of a data frame with ten columns. Both get the same rows through the SDK, in turns,
from one caller and from many at once. The target is a ratio of at most 1.5.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

import skysail

COLUMNS = 10
WIDE = 1000
CALLERS = 64
TARGET = 1.5
_ROUNDS = 25
_QUERIES = 128


def sum_rows(x: Any) -> Any:
    """Return the sum of each row of an array or a data frame of pandas."""
    return np.asarray(x).sum(1)


def sum_mixed(frame: Any) -> Any:
    """Return the sum of the numbers of a data frame with texts."""
    return frame["a"].to_numpy() + frame["c"].to_numpy()


def sum_polars(frame: Any) -> Any:
    """Return the sum of each row of a data frame of polars."""
    return frame.sum_horizontal()


@contextmanager
def running_cluster() -> Iterator[tuple[str, str]]:
    """Run a cluster on free ports, and yield the endpoints of management and of a frontend."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "skysail"]
        names = ("http", "grpc", "metrics", "management")
        ports = [part for name in names for part in (f"--{name}-port", "0")]
        place = ["--data-dir", directory]
        subprocess.run(
            [*command, "up", "--detach", *place, *ports], check=True, capture_output=True
        )
        try:
            noted = json.loads((Path(directory) / "cluster.json").read_text())
            yield noted["management"], noted["grpc"]
        finally:
            subprocess.run([*command, "down", *place], check=True, capture_output=True)


def main() -> int:
    """Print the cost of each query and its ratio to that of one tensor; return 1 above the target."""
    rng = np.random.default_rng(5)
    matrix = rng.random((_QUERIES, COLUMNS))
    wide = rng.random((_QUERIES, WIDE))
    numbers = pd.DataFrame(matrix, columns=list("abcdefghij"))
    wide_numbers = pd.DataFrame(wide, columns=[f"c{index}" for index in range(WIDE)])
    mixed = numbers.assign(b=["Oslo", "Rome"] * (_QUERIES // 2), d=range(_QUERIES))
    cases: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
        "tensor": (sum_rows, matrix, ""),
        "frame": (sum_rows, numbers, "tensor"),
        "polars": (sum_polars, pl.from_pandas(numbers), "tensor"),
        "mixed": (sum_mixed, mixed, "tensor"),
        "wide tensor": (sum_rows, wide, ""),
        "wide frame": (sum_rows, wide_numbers, "wide tensor"),
    }
    with running_cluster() as endpoints:
        with skysail.Client(endpoints[0]) as client:
            for name, (function, example, _) in cases.items():
                client.deploy(function, name=name.replace(" ", "-"), example=example[:1])
        queries = {
            name: [example[index : index + 1] for index in range(_QUERIES)]
            if hasattr(example, "columns")
            else list(example)
            for name, (_, example, _) in cases.items()
        }
        costs = asyncio.run(_measure(*endpoints, queries))
    is_within = True
    for callers in (1, CALLERS):
        for name, (_, _, base) in cases.items():
            cost = costs[name, callers]
            ratio = cost / costs[base or name, callers]
            is_within = is_within and (name != "frame" or ratio <= TARGET)
            print(f"{callers:3} callers, {name:12} {cost * 1e6:8.0f} us a query, {ratio:5.2f} x")
    return int(not is_within)


async def _measure(
    management: str, frontend: str, queries: dict[str, list[Any]]
) -> dict[tuple[str, int], float]:
    """Return the least seconds of a query for each case and number of callers.

    Other work on the machine may slow down any number of turns.
    """
    found: dict[tuple[str, int], list[float]] = {}
    async with skysail.AsyncClient(management, query_endpoint=frontend) as client:
        for turn in range(_ROUNDS + 1):
            for name, inputs in queries.items():
                for callers in (1, CALLERS):
                    begin = perf_counter()
                    await _ask(client, name.replace(" ", "-"), inputs, callers)
                    if turn:
                        # The first turn warms up.
                        each = (perf_counter() - begin) / len(inputs)
                        found.setdefault((name, callers), []).append(each)
    return {key: min(times) for key, times in found.items()}


async def _ask(client: skysail.AsyncClient, model: str, inputs: list[Any], callers: int) -> None:
    waiting = iter(inputs)

    async def caller() -> None:
        for each in waiting:
            await client.predict(model, each)

    await asyncio.gather(*(caller() for _ in range(callers)))


if __name__ == "__main__":
    sys.exit(main())
