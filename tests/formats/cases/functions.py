"""Functions, coroutine functions, and objects with `predict`."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case

SHIFT = Path(__file__).with_name("shift.txt")


def scaled(number: int, directory: Path) -> Any:
    weights = np.arange(3.0) + number

    def predict(rows):
        return rows * weights

    return predict


class Tripled:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def predict(self, rows):
        return rows * self.factor


class Shifted(Tripled):
    """A model that reads a file in the replica."""

    def load(self, context):
        self.shift = float(context.file("shift.txt").read_text())

    def predict(self, rows):
        return {"shifted": rows * self.factor + self.shift}


def coroutine(number: int, directory: Path) -> Any:
    async def predict(rows):
        await asyncio.sleep(0)
        return rows - number

    return predict


def one_row(number: int, directory: Path) -> Any:
    def predict(row):
        return float(row.sum()) + number

    return predict


def table() -> np.ndarray:
    return np.arange(12.0).reshape(4, 3)


CASES = [
    Case("function", scaled, table, lambda model, batch: model(batch)),
    Case(
        "object", lambda number, _: Tripled(3.0 + number), table, lambda it, rows: it.predict(rows)
    ),
    Case(
        "object-with-file",
        lambda number, _: Shifted(3.0 + number),
        table,
        lambda model, batch: {"shifted": batch * model.factor + float(SHIFT.read_text())},
        options={"files": {"shift.txt": SHIFT}},
    ),
    Case("coroutine", coroutine, table, lambda model, batch: asyncio.run(model(batch))),
    Case(
        "function-of-a-row",
        one_row,
        lambda: table()[0],
        lambda model, batch: [model(row) for row in batch],
        rows=table,
        options={"batch": False},
    ),
]
