"""State that a function creates lazily never travels, even after a call."""

import functools
import pickle
import threading
from typing import Any

import numpy as np
import pytest

from skysail.artifact.build import Artifact, build_artifact
from skysail.artifact.pickling import pickle_function
from skysail_common.errors import InvalidInput, ModelFailed
from skysail_testing.artifacts import function_in

# Definitions of this module are pickled by value, as those of a notebook are.
__name__, __package__ = "__main__", None

X = np.ones((2, 2))

connection = None
calls = 0
connections: dict[str, Any] = {}


def with_global(x):
    global connection
    if connection is None:
        connection = threading.Lock()
    with connection:
        return x


def with_element(x):
    if "first" not in connections:
        connections["first"] = threading.Lock()
    with connections["first"]:
        return x


def with_attribute(x):
    if getattr(with_attribute, "lock", None) is None:
        with_attribute.lock = threading.Lock()  # type: ignore[attr-defined]
    with with_attribute.lock:  # type: ignore[attr-defined]
        return x


def counts(x):
    global calls
    calls += 1
    return x + calls


class Model:
    """A model that creates its state lazily, in two ways."""

    def __init__(self):
        self._lock = None

    def predict(self, x):
        self._lock = self._lock or threading.Lock()
        with self._lock, self.other:
            return x

    @functools.cached_property
    def other(self):
        return threading.Lock()


class Session:
    """A session like that of ONNX Runtime, with an unpicklable object inside."""

    def __init__(self):
        self._lock = threading.Lock()


session = None


def with_session(x):
    global session
    if session is None:
        session = Session()
    with session._lock:
        return x


@functools.cache
def lock():
    return threading.Lock()


@functools.lru_cache(maxsize=3, typed=True)
def fibonacci(n):
    """Return a number."""
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def with_cache(x):
    with lock():
        return x + fibonacci(6)


def loads(artifact: Artifact) -> Any:
    return function_in(artifact)


@pytest.fixture(autouse=True)
def _unused():
    yield
    globals().update(connection=None, session=None, calls=0)
    connections.clear()
    vars(with_attribute).clear()


@pytest.mark.parametrize(
    "function", [with_global, with_element, with_attribute, with_cache, with_session]
)
def test_the_call_on_the_example_leaves_no_state(function):
    first, second = build_artifact(function, example=X), build_artifact(function, example=X)
    assert first.sha256 == second.sha256
    assert connection is None
    assert connections == {}
    assert not hasattr(with_attribute, "lock")
    assert loads(first)(X).shape == X.shape


def test_a_counter_is_restored_after_the_example():
    artifact = build_artifact(counts, example=X)
    assert calls == 0
    assert loads(artifact)(X).tolist() == (X + 1).tolist()


def test_a_method_makes_its_attributes_again():
    model = Model()
    artifact = build_artifact(model.predict, example=X)
    assert vars(model) == {"_lock": None}
    assert loads(artifact)(X).tolist() == X.tolist()


def test_state_is_restored_after_a_failed_call():
    def fails(x):
        counts(x)
        connections["a"] = 1
        raise ValueError("on purpose")

    with pytest.raises(ModelFailed, match="on purpose"):
        build_artifact(fails, example=X)
    assert (calls, connections) == (0, {})


@pytest.mark.parametrize("function", [with_global, with_session, with_cache, Model().predict])
def test_a_function_that_ran_before_gives_the_same_artifact(function):
    fresh = build_artifact(function, example=X)
    function(X)
    tried = build_artifact(function, example=X)
    assert tried.sha256 == fresh.sha256
    assert loads(tried)(X).shape == X.shape


def test_a_variable_of_an_outer_function_is_made_again():
    def make():
        session = None

        def predict(x):
            nonlocal session
            if session is None:
                session = threading.Lock()
            with session:
                return x

        return predict

    predict = make()
    fresh = build_artifact(predict, example=X).sha256
    predict(X)
    assert build_artifact(predict, example=X).sha256 == fresh


@pytest.mark.parametrize(
    ("function", "where"),
    [(with_element, "connections['first']"), (with_attribute, "lock")],
)
def test_state_that_is_not_created_lazily_is_refused(function, where):
    function(X)
    with pytest.raises(InvalidInput) as caught:
        pickle_function(function)
    assert caught.value.message == (
        f"cannot pickle the function: {where} (a lock): TypeError: cannot pickle '_thread.lock' "
        "object; create it inside the function on first use, in a function under functools.cache"
    )


def test_an_attribute_set_by_another_method_is_refused():
    class Fitted:
        def fit(self):
            self.lock = threading.Lock()
            return self

        def predict(self, x):
            with self.lock:
                return x

    with pytest.raises(InvalidInput, match=r"self\.lock \(a lock\)"):
        pickle_function(Fitted().fit().predict)


def test_a_cached_function_is_the_same_there_with_an_empty_cache():
    fibonacci(30)
    loaded = pickle.loads(pickle_function(lambda: fibonacci).content)()
    assert loaded.cache_info()._asdict() == {"hits": 0, "misses": 0, "maxsize": 3, "currsize": 0}
    assert loaded.cache_parameters() == {"maxsize": 3, "typed": True}
    assert (loaded.__name__, loaded.__doc__) == ("fibonacci", "Return a number.")
    assert loaded(20) == 6765
    # The recursive call goes through the cache.
    assert loaded.cache_info().misses == 21


def test_a_function_that_dispatches_by_type_is_the_same_there():
    @functools.singledispatch
    def convert(value):
        return "any"

    @convert.register
    def _(value: str):
        return "text"

    def predict(x):
        return [convert("a")] * len(x)

    artifact = build_artifact(predict, example=X)
    assert build_artifact(predict, example=X).sha256 == artifact.sha256
    assert loads(artifact)(X) == ["text", "text"]


def test_a_cached_method_is_the_same_there():
    class Cached:
        @functools.cache  # noqa: B019 - what users write.
        def square(self, x):
            return x * x

        @functools.cached_property
        def four(self):
            return 4

        def predict(self, x):
            return self.square(3) + self.four

    assert pickle.loads(pickle_function(Cached().predict).content)(None) == 13


def test_a_cached_function_of_an_installed_module_stays_there():
    import re

    function = re._compile_template if hasattr(re, "_compile_template") else re.compile  # type: ignore[attr-defined]
    assert pickle.loads(pickle_function(lambda: function).content)() is function


class Sentinel:
    """A singleton that is pickled by its name."""

    def __reduce__(self):
        return "MISSING"


MISSING = Sentinel()


def test_an_object_pickled_by_name_in_a_script_is_refused():
    with pytest.raises(InvalidInput) as caught:
        pickle_function(lambda x: x if x is not MISSING else None)
    assert caught.value.message == (
        "cannot pickle the function: MISSING (a Sentinel) is pickled by its name, and a replica has "
        "no '__main__' with that name; move it into a module of its own, which travels along"
    )


def test_a_file_beside_the_script_is_refused():
    def predict(x):
        return open(__file__)

    with pytest.raises(InvalidInput, match="predict reads __file__, and the files beside a script"):
        pickle_function(predict)


def test_an_unpicklable_object_is_found_without_another_pickle():
    class Heavy:
        num_pickled = 0

        def __getstate__(self):
            Heavy.num_pickled += 1
            return {}

    heavy, lock = Heavy(), threading.Lock()
    parts = [heavy, {"lock": lock}]
    with pytest.raises(InvalidInput, match=r"parts\[1\]\['lock'\] \(a lock\)"):
        pickle_function(lambda x: parts)
    assert Heavy.num_pickled == 1


def test_a_set_keeps_its_order_while_the_function_runs():
    # A set that is cleared and filled again may have another order.
    kept = {7, 15, 23}
    kept.discard(23)
    before = list(kept)

    def predict(x):
        kept.add(1)
        return x * len(kept)

    build_artifact(predict, example=X)
    assert list(kept) == before
