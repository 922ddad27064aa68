import functools
import pickle
import types
from typing import Any

import pytest

from skysail.artifact.pickling import pickle_function
from skysail.artifact.set_ordering import SetOrdering, SortedSet


def loaded(function: Any) -> Any:
    return pickle.loads(pickle_function(function).content)(None)


def test_references_in_sets_stay_shared_in_the_replica():
    words = {"a", "b", "c"}
    first = [words, 1]
    both = {"first": first, "words": words}
    holder = types.SimpleNamespace(first=first)

    def function(x):
        return words, first, both, holder

    there, list_there, both_there, holder_there = loaded(function)
    assert there == words
    assert type(there) is set
    assert list_there[0] is there
    assert both_there == both
    assert both_there["first"] is list_there
    assert both_there["words"] is there
    assert holder_there.first is list_there


def test_arguments_of_a_partial_function_arrive():
    partial = functools.partial(print, ("x", frozenset({"y", "z"})), end=[{"a", "b"}])
    there = loaded(lambda x: partial)
    assert (there.func, there.args, there.keywords) == (print, partial.args, partial.keywords)


def test_a_list_that_holds_itself_is_left_as_it_is():
    own: list[Any] = [{"a", "b"}]
    own += [own, own]
    assert SetOrdering().ordered(own) is own
    there = loaded(lambda x: own)
    assert there[0] == {"a", "b"}
    assert there[1] is there[2] is there


@pytest.mark.parametrize(
    "value",
    [[[0.0] * 1000] * 1000, {"a": 1}, [{1, 2, 3}], ({object()},), "text", [[]], {}],
    ids=lambda value: type(value).__name__,
)
def test_stable_or_large_values_are_unchanged(value):
    assert SetOrdering().ordered(value) is value


def test_elements_of_several_types_have_an_order():
    value = {None, "a", b"a", 1, ("a", (1, None)), int, str}
    assert isinstance(SetOrdering().ordered(value), SortedSet)
    assert pickle.loads(pickle.dumps(SetOrdering().ordered(value))) == value
