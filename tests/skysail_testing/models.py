"""Functions that tests deploy as a local module of the user."""

import os
import signal
import sys
import time

import numpy as np


def double(x):
    return x * 2


def difference(a, b):
    return a - b


def sums(inputs):
    return [float(sum(row)) for row in inputs]


def shout(inputs):
    return [text.upper() for text in inputs]


def lengths(inputs):
    return [len(each) for each in inputs]


def count_rows(x):
    """Return the batch size for each row."""
    return np.full(len(x), float(len(x)))


def slow(x):
    time.sleep(0.3)
    return x


def nap(x):
    """Sleep for the largest number, in seconds."""
    time.sleep(float(x.max()))
    return x


def fussy(x):
    """Refuse negative numbers."""
    if (x < 0).any():
        raise ValueError("negative numbers are not welcome")
    return x


def one_too_few(x):
    """Return one row too few if the batch contains a 7."""
    return x[1:] if (x == 7).any() else x


def changes_type(x):
    return ["seven"] * len(x) if (x == 7).any() else x


def poison(x):
    """Exit the process on the number 666."""
    if (x == 666).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def talks(x):
    sys.stderr.write(f"seen {x.tolist()}\n")
    return x


def answer_nan(x):
    return np.full(len(x), np.nan)


class FailsToLoad:
    """A function that can be pickled but not loaded."""

    def __call__(self, x):
        return x

    def __reduce__(self):
        return _raise_elsewhere, (os.getpid(),)


def _raise_elsewhere(pid):
    if os.getpid() != pid:
        raise RuntimeError("the weights are missing")
    return FailsToLoad()


class FailsInWarmUp:
    """A function that raises in every process but the one that made it."""

    def __init__(self):
        self.pid = os.getpid()

    def __call__(self, x):
        if os.getpid() != self.pid:
            raise RuntimeError("no GPU here")
        return x


class Constant:
    """A function that returns one number for every row."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return np.full(len(x), self.value)


def by_name(names):
    """Return the test value for each name."""
    values = {
        "text 7": "7",
        "number 7": 7,
        "text null": "null",
        "missing": None,
        "plain": "cat",
        "quoted": '"cat"',
        "keys": {np.int64(0): np.float32(0.5)},
        "nan": {"score": float("nan")},
        "infinity": [float("-inf"), 1],
        "set": {1, 2},
        "bytes": b"\x89PNG",
    }
    return [values[name] for name in names]
