"""Functions, classes and coroutine functions."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case


def scaled(number: int, directory: Path) -> Any:
    weights = np.arange(3.0) + number

    def predict(rows):
        return rows * weights

    return predict


class Shifted:
    """A model that loads a file in the replica."""

    def load(self, context):
        self.shift = float(context.file("shift.txt").read_text())

    def predict(self, rows):
        return {"shifted": rows + self.shift}


class Tripled:
    def predict(self, rows):
        return rows * self.factor

    def __init__(self, factor=3.0):
        self.factor = factor


def coroutine(number: int, directory: Path) -> Any:
    async def predict(rows):
        await asyncio.sleep(0)
        return rows - number

    return predict


def table() -> np.ndarray:
    return np.arange(12.0).reshape(4, 3)


CASES = [
    Case("function", scaled, table, lambda model, batch: model(batch)),
    Case(
        "instance",
        lambda number, directory: Tripled(3.0 + number),
        table,
        lambda model, batch: model.predict(batch),
    ),
]
