import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from collections import OrderedDict, namedtuple
from types import MappingProxyType

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skysail_common.errors import ModelFailed
from skysail_common.json_or_text import element_of, elements_of, value_of
from skysail_testing.examples import examples


@settings(max_examples=examples(300))
@given(st.text() | st.text('0123456789.eE+-truefalsnNIity"[]{}:, \n\t', max_size=12))
@example("1e5")
@example("null")
@example("true")
@example("123")
@example('"quoted"')
@example(" 7\n")
@example("NaN")
@example("-Infinity")
@example("[" * 5000)
@example("[" * 200_000)
@example("9" * 5000)
@example("1e400")
@example("\ufeff1")
@example('"\\ud800"')
def test_a_text_stays_a_text_for_every_reader(text):
    [element] = elements_of([text])
    assert element == element_of(text)
    assert value_of(element) == text
    assert isinstance(value_of(element), str)
    try:
        strict = orjson.loads(element)
    except orjson.JSONDecodeError:
        strict = element
    assert strict == text


@pytest.mark.parametrize("text", ["cat", "", "nothing", "true story", "[1, 2", "1.2.3", "été"])
def test_a_text_that_is_not_json_stays_unchanged(text):
    assert element_of(text) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=6,
)


def same(found: object, sent: object) -> bool:
    if isinstance(sent, float):
        return isinstance(found, float) and (found == sent or (math.isnan(found) and sent != sent))
    if isinstance(sent, list):
        return isinstance(found, list) and all(map(same, found, sent)) and len(found) == len(sent)
    if isinstance(sent, dict):
        return found.keys() == sent.keys() and all(same(found[key], sent[key]) for key in sent)
    return type(found) is type(sent) and found == sent


@settings(max_examples=examples(200))
@given(json_values)
@example(2**70)
@example(-math.inf)
@example({"score": math.nan})
def test_values_come_back_with_their_types(value):
    assert same(value_of(element_of(value)), value)


@dataclasses.dataclass
class Box:
    label: str
    scores: dict


class Colour(enum.Enum):
    RED = "red"


class NaT(datetime.datetime):
    """The missing date of pandas."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None


class NAType:
    """The missing value of pandas."""


Pair = namedtuple("Pair", "a b")
DAY = datetime.date(2024, 12, 3)
ID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ({np.int64(0): np.float64(0.25), np.int64(1): 0.75}, {"0": 0.25, "1": 0.75}),
        ({np.str_("a"): np.float32(0.5)}, {"a": 0.5}),
        ({DAY: {np.bool_(True): [np.int8(1)]}}, {"2024-12-03": {"true": [1]}}),
        ({"when": DAY, "n": 1}, {"when": "2024-12-03", "n": 1}),
        (datetime.datetime(2024, 12, 3, 1, 2, 3), "2024-12-03T01:02:03"),
        (datetime.time(1, 2), "01:02:00"),
        (np.datetime64("2024-12-03", "ns"), "2024-12-03T00:00:00.000000000"),
        (np.array(["2024-12-03", "NaT"], "M8[D]"), ["2024-12-03", None]),
        (NaT(2024, 1, 1), None),
        (NAType(), None),
        (Box("a", {np.int64(1): np.arange(2)}), {"label": "a", "scores": {"1": [0, 1]}}),
        ([Colour.RED, ID], ["red", str(ID)]),
        (Pair(1, np.float16(0.5)), [1, 0.5]),
        (MappingProxyType({"a": OrderedDict(b=1)}), {"a": {"b": 1}}),
        (np.ma.masked_less(np.array([1.0, 2.0]), 2), [None, 2.0]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.bool_(True), True),
    ],
    ids=lambda each: type(each).__name__,
)
def test_values_of_other_types_have_a_json_form(value, read):
    assert value_of(element_of(value)) == read
    assert orjson.loads(element_of(value)) == read


def circular() -> list:
    value: list = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\x89PNG", "holds a value of type bytes; return a text, such as its base64, or deploy"),
        (b"abc", "holds a value of type bytes"),
        (np.bytes_(b"abc"), "holds a value of type bytes"),
        ([bytearray(b"a")], "holds a value of type bytearray"),
        ({"a": memoryview(b"a")}, "holds a value of type memoryview"),
        ({1, 2}, "holds a value of type set; return a list of its elements"),
        ({"a": {np.int64(1): {2}}}, "holds a value of type set"),
        (iter([1]), "return a list of its elements"),
        (np.complex64(1j), "holds a value of type complex"),
        (np.longdouble(1), "holds a value of type longdouble"),
        (decimal.Decimal("0.1"), "type Decimal; return texts, numbers, lists or dictionaries"),
        (object(), "holds a value of type object"),
        (Box, "holds a value of type type"),
        ({(1, 2): 3}, "holds a value of type tuple"),
        ({frozenset(): 3}, "holds a value of type frozenset"),
        (circular(), "Circular reference detected; return simpler lists"),
        ({np.int64(1): circular()}, "maximum recursion depth exceeded"),
        (10**5000, "for integer string conversion"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_the_error_about_a_value_without_json_form_has_its_type_and_a_fix(value, message):
    with pytest.raises(ModelFailed, match=r"^cannot write an output as JSON: ") as caught:
        element_of(value)
    assert message in caught.value.message


def test_half_a_surrogate_pair_passes_to_the_text_encoder():
    with pytest.raises(UnicodeEncodeError):
        element_of(["\ud800"]).encode()
    assert json.loads(element_of({"a": "é"})) == {"a": "é"}
