"""The models under attack, whose answers the callers can compute."""

import random
from dataclasses import dataclass

import numpy as np

import skysail

Array = np.ndarray

APPLICATION = "lines"
"""An application with a default output that no honest caller may receive."""
TEXT_INPUT = "input"
"""Name of the input of a function that takes a list."""
_SLO_MS = 5_000.0


def linear(x: Array) -> Array:
    """Return 2 x + 1."""
    return np.asarray(2 * x + 1)


def difference(a: Array, b: Array) -> Array:
    """Return a − b, which shows whether the inputs were exchanged."""
    return np.asarray(a - b)


def shout(inputs: list[str]) -> list[str]:
    """Return the texts in capitals."""
    return [text.upper() for text in inputs]


def deploy(client: skysail.Client) -> None:
    """Deploy the models and register the application."""
    row = np.ones((1, 3))
    client.deploy(linear, name="linear", version="1", example=row)
    client.deploy(difference, name="difference", version="1", example={"a": row, "b": row})
    client.deploy(shout, name="shout", version="1", input_type="strings")
    client.register_application(APPLICATION, "tensors", default_output=-1, slo_ms=_SLO_MS)
    client.link(APPLICATION, "linear")


@dataclass(frozen=True)
class Question:
    """Inputs for a model and the answer to them."""

    model: str
    inputs: dict[str, Array]
    """Inputs in the order in which they are sent."""
    answer: Array

    def check(self, answer: Array) -> None:
        """Raise WrongAnswer if an answer differs from the expected one."""
        if answer.shape != self.answer.shape or (answer != self.answer).any():
            raise WrongAnswer(
                f"{self.model}({self.inputs}) is {self.answer.tolist()}, got {answer.tolist()}"
            )


class WrongAnswer(Exception):
    """An honest caller got an answer that differs from the result of the model."""


def question(rng: random.Random) -> Question:
    """Return a random question of a few rows to one of the models."""
    rows = rng.choice([1, 1, 2, 5])
    model = rng.choice(["linear", "difference", "shout"])
    if model == "shout":
        texts = ["".join(rng.choices("abcde é", k=rng.randrange(9))) for _ in range(rows)]
        given = np.array(texts, dtype=object)
        return Question(model, {TEXT_INPUT: given}, np.array(shout(texts), dtype=object))
    names = ["x"] if model == "linear" else ["a", "b"]
    rng.shuffle(names)
    arrays = {name: _numbers(rng, rows) for name in names}
    answer = linear(**arrays) if model == "linear" else difference(**arrays)
    return Question(model, arrays, answer)


def _numbers(rng: random.Random, rows: int) -> Array:
    return np.array([[float(rng.randrange(-999, 999)) for _ in range(3)] for _ in range(rows)])
