import functools
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import cloudpickle
import numpy as np
import pytest

from skysail.artifact.build import build_artifact
from skysail.artifact.pickling import pickle_function
from skysail_common.errors import InvalidInput

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

LOG: BinaryIO
LOCK = threading.Lock()


def culprit(function: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        pickle_function(function)
    begin, _, rest = caught.value.message.partition(": ")
    assert begin == "cannot pickle the function"
    where, _, error = rest.partition(": ")
    assert error.startswith("TypeError: cannot pickle ")
    assert error.endswith(
        "; create it inside the function on first use, in a function under functools.cache"
    )
    return where


class Model:
    """A trained model with an unpicklable attribute."""

    def __init__(self, **parts: Any) -> None:
        self.weights = np.ones(3)
        self.__dict__.update(parts)

    def predict(self, x):
        return x


def numbers():
    yield 1


def test_an_attribute_of_the_model_is_named():
    assert culprit(Model(lock=threading.Lock()).predict) == "self.lock (a lock)"


def test_an_attribute_of_a_model_in_the_closure_is_named():
    model = Model(inner=Model(lock=threading.Lock()))
    assert culprit(lambda x: model.predict(x)) == "model.inner.lock (a lock)"


def test_a_generator_in_the_closure_is_named():
    rows = numbers()

    def predict(x):
        return next(rows)

    assert culprit(predict) == "rows (a generator)"


def test_an_open_file_in_a_global_is_named():
    global LOG

    def predict(x):
        LOG.write(x)

    with open(sys.executable, "rb") as LOG:
        assert culprit(predict) == "LOG (a BufferedReader)"


def test_a_global_of_a_function_inside_the_function_is_named():
    def predict(x):
        def locked():
            with LOCK:
                return x

        return locked()

    assert culprit(predict) == "LOCK (a lock)"


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": 1, "lock": threading.Lock()}, "parts['lock'] (a lock)"),
        ([0, threading.Lock()], "parts[1] (a lock)"),
        ((0, [threading.Lock()]), "parts[1][0] (a lock)"),
        (functools.partial(max, key=threading.Lock()), "parts.keywords['key'] (a lock)"),
    ],
    ids=["dictionary", "list", "tuple", "partial"],
)
def test_a_part_of_a_collection_is_named(value, where):
    parts = value
    assert culprit(lambda x: parts) == where


def test_a_default_is_named():
    def by_place(x, lock=threading.Lock()):  # noqa: B008 - what careless users write.
        return x

    def by_name(x, *, lock=threading.Lock()):  # noqa: B008 - what careless users write.
        return x

    assert culprit(by_place) == "default 0 (a lock)"
    assert culprit(by_name) == "lock (a lock)"


def test_a_function_of_the_closure_is_looked_into():
    lock = threading.Lock()

    def helper():
        return lock

    assert culprit(lambda x: helper()) == "helper.lock (a lock)"


def test_a_function_that_calls_itself_is_looked_into_once():
    lock = threading.Lock()

    def again(x):
        with lock:
            return again(x)

    assert culprit(again) == "lock (a lock)"


def test_objects_that_refer_to_each_other_are_looked_into_once():
    child = Model()
    parent = Model(child=child, lock=threading.Lock())
    child.parent = parent
    assert culprit(child.predict) == "self.parent.lock (a lock)"


def test_a_variable_that_is_not_set_yet_is_passed_over():
    lock = threading.Lock()

    def predict(x):
        return alas(x), lock

    assert culprit(predict) == "lock (a lock)"
    alas = None


def test_a_deep_path_is_shortened():
    value: Any = threading.Lock()
    for _ in range(20):
        value = [value]
    assert culprit(lambda x: value) == "value[0][0][0][0]… (a lock)"


def test_build_artifact_raises_the_error():
    lock = threading.Lock()
    with pytest.raises(InvalidInput, match=r"cannot pickle the function: lock \(a lock\): "):
        build_artifact(lambda x: (x, lock)[0], example=[1])


def test_picklable_values_round_trip():
    weights = np.arange(3.0)
    pickled = pickle_function(lambda x: x @ weights)
    assert cloudpickle.loads(pickled.content)(weights) == 5


def test_the_modules_that_code_imports_are_noted_also_where_it_did_not_run():
    def predict(x):
        import json
        import xml.dom as dom
        from collections import abc

        def inner():
            import csv

            return csv

        return json, dom, abc, inner

    assert pickle_function(predict).modules >= {"json", "xml.dom", "collections", "csv"}


def test_the_code_of_methods_of_a_pickled_class_is_seen_too():
    class Local:
        def predict(self, x):
            import colorsys

            return colorsys

    assert "colorsys" in pickle_function(Local().predict).modules


def test_the_modules_that_a_pickle_refers_to_are_noted():
    path = Path("a")
    texts = {"click": 1, "rich": 2}
    modules = pickle_function(lambda x: (path, np.tanh(x), texts)).modules
    tops = {name.partition(".")[0] for name in modules}
    assert {"pathlib", "numpy"} <= tops
    assert not {"click", "rich"} & tops


SCRIPT = """
import enum, hashlib, sys
from typing import Generic, TypeVar
from skysail.artifact.pickling import pickle_function

T = TypeVar("T")

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

class Base(Generic[T]):
    words = frozenset  # Known by its name.

class Model(Base[int]):
    def __init__(self, colour):
        self.colour = colour

    def predict(self, x):
        if x in {"a", "b", "c", "d", 1, None}:
            return self.colour
        return [row for row in x if row in {"e", "f", "g", "h"}]

def classes():
    class Twin:
        pass
    return Twin

twins = classes(), classes()
model = Model(Colour.BLUE)
content = pickle_function(lambda x: (model.predict(x), twins)).content
sys.stdout.buffer.write(content)
"""


def test_the_same_script_gives_the_same_pickle_in_every_process():
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    contents = [process.communicate(timeout=60)[0] for process in running]
    assert contents[0] == contents[1]
    function = pickle.loads(contents[0])
    colour, (one, other) = function("a")
    assert (colour.name, colour.value) == ("BLUE", 2)
    assert one is not other
    assert (one.__qualname__, one) == (other.__qualname__, type(one()))
    assert function(("e", "x"))[0] == ["e"]


def test_a_later_pickle_is_identical():
    class Local:
        pass

    def predict(x):
        return Local

    first = pickle_function(predict).content
    pickle_function(lambda x: (Model, Local))
    assert pickle_function(predict).content == first
