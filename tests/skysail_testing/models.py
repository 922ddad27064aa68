"""Functions that tests deploy. They travel as a local module of the user."""

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
    """Return for each row how many rows the batch had."""
    return np.full(len(x), float(len(x)))


def slow(x):
    time.sleep(0.3)
    return x


def nap(x):
    """Take as long as the largest number says."""
    time.sleep(float(x.max()))
    return x


def fussy(x):
    """Refuse negative numbers."""
    if (x < 0).any():
        raise ValueError("negative numbers are not welcome")
    return x


def one_too_few(x):
    """Answer the example, but lose a row of what has the number 7 in it."""
    return x[1:] if (x == 7).any() else x


def changes_type(x):
    return ["seven"] * len(x) if (x == 7).any() else x


def poison(x):
    """End the whole process on the number 666."""
    if (x == 666).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def talks(x):
    sys.stderr.write(f"seen {x.tolist()}\n")
    return x


def answer_nan(x):
    return np.full(len(x), np.nan)


class FailsToLoad:
    """Pickles well; raises where it is loaded."""

    def __call__(self, x):
        return x

    def __reduce__(self):
        return _raise_elsewhere, (os.getpid(),)


def _raise_elsewhere(pid):
    if os.getpid() != pid:
        raise RuntimeError("the weights are missing")
    return FailsToLoad()


class FailsInWarmUp:
    """Answers where it was made; raises elsewhere."""

    def __init__(self):
        self.pid = os.getpid()

    def __call__(self, x):
        if os.getpid() != self.pid:
            raise RuntimeError("no GPU here")
        return x


class Constant:
    """Answers every row with one number."""

    def __init__(self, value):
        self.value = value

    def __call__(self, x):
        return np.full(len(x), self.value)


def by_name(names):
    """Return for each name the value that tests know by it."""
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
