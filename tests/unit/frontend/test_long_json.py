import base64
import json
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.tensors import DataType, to_numpy
from skysail_frontend.ingress import long_json, long_texts
from skysail_frontend.ingress.json_values import parsed
from skysail_frontend.ingress.long_json import LongArray, parse_json, tensor_of_json
from skysail_frontend.ingress.long_texts import LongText, decoded
from skysail_frontend.ingress.time_slice import TimeSlice
from skysail_testing.costs import least_cost
from skysail_testing.examples import examples

TEXTS = st.text('a",[]{}\\é\n', max_size=30)
NAMES = st.text('a"[\\é', max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | TEXTS,
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=60,
)


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limits, so that short texts count as long."""
    monkeypatch.setattr(long_json, "LONG_BYTES", 32)
    monkeypatch.setattr(long_texts, "_STEP_BYTES", 32)


async def whole(value: object) -> object:
    """Parse the unparsed parts of a value."""
    if isinstance(value, LongArray):
        slices = [each async for each in value.slices(TimeSlice())]
        return [await whole(each) for elements in slices for each in elements]
    if isinstance(value, LongText):
        return b"".join(await value.parts(TimeSlice())).decode()
    if isinstance(value, dict):
        return {key: await whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [await whole(each) for each in value]
    return value


@pytest.mark.usefixtures("_short")
@settings(max_examples=examples(300))
@given(value=VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
async def test_a_text_parsed_in_parts_has_the_same_value(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert await whole(await parse_json(text, TimeSlice())) == value


@pytest.mark.usefixtures("_short")
@settings(max_examples=examples(300))
@given(value=VALUES, data=st.data())
async def test_a_broken_text_is_refused_in_parts_too(value, data):
    text = bytearray(json.dumps(value).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 2))] = data.draw(
        st.sampled_from([b",", b"]", b"}", b'"', b"\\"])
    )
    try:
        expected = json.loads(bytes(text), parse_constant=lambda name: pytest.skip(name))
    except ValueError:
        with pytest.raises(InvalidInput, match="JSON"):
            await whole(await parse_json(bytes(text), TimeSlice()))
    else:
        assert await whole(await parse_json(bytes(text), TimeSlice())) == expected


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("text", ["[%s}", '{"a": [%s}}', '{[%s]: 1, "b": [%s]}'])
async def test_a_long_array_may_be_at_any_place(text):
    with pytest.raises(InvalidInput, match="Error parsing JSON"):
        await parse_json(text.replace("%s", "1, " * 20 + "1").encode(), TimeSlice())


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    "array", [np.arange(1000.0), np.arange(999.0).reshape(3, 333), np.ones((9, 9, 9))]
)
async def test_a_long_array_becomes_the_same_tensor_as_a_short_one(array):
    value = await parse_json(json.dumps(array.tolist()).encode(), TimeSlice())
    assert isinstance(value, LongArray)
    tensor = await tensor_of_json("x", value, DataType.FP64, array.size, TimeSlice())
    assert np.array_equal(to_numpy(tensor), array)


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([[1.0] * 50, [1.0] * 49], "has rows of different lengths"),
        ([[1.0] * 50, 1.0], "has rows of different lengths"),
        ([1.0] * 99 + [[1.0] * 50], "has rows of different lengths"),
        ([1.0] * 101, "has more than 100 elements"),
        ([[]] * 101, "has more than 100 elements"),
        ([1.0] * 50 + ["a"] + [1.0] * 49, 'takes numbers, got .*"a"'),
        ([[[[[[[[[[[[1.0] * 50]]]]]]]]]]], "has too many dimensions"),
    ],
)
async def test_a_long_array_that_is_not_a_tensor_is_refused(value, text):
    long = await parse_json(json.dumps(value).encode(), TimeSlice())
    with pytest.raises(InvalidInput, match=text):
        await tensor_of_json("x", long, DataType.FP64, 100, TimeSlice())


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([1.0] * 70 + ["a"] + [1.0] * 9, r"\[70\]"),
        ([[1.0] * 50, [1.0] * 49 + ["a"]], r"\[1\]\[49\]"),
        ([[[1.0] * 50], [[1.0] * 49 + ["a"]]], r"\[1\]\[0\]\[49\]"),
    ],
)
async def test_the_error_about_a_long_array_names_the_place(value, place):
    long = await parse_json(json.dumps(value).encode(), TimeSlice())
    with pytest.raises(InvalidInput, match=f"takes numbers, got .* at {place}$"):
        await tensor_of_json("x", long, DataType.FP64, 1000, TimeSlice())


async def test_unused_members_are_not_parsed():
    text = b'{"a":[' + b"[]," * 1_000_000 + b"1]}"
    tracemalloc.start()
    try:
        value = await parse_json(text, TimeSlice())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(value["a"], LongArray)
    assert peak < 5_000_000


@pytest.mark.parametrize("unit", [b'"a":1,', b'"a":[1],', b'"a":{"b":1},'])
async def test_values_beside_long_arrays_are_bounded(unit):
    text = b"{" + (unit * 60_000)[:-1] + b"}"
    with pytest.raises(InvalidInput, match="more than 50000 JSON values"):
        await parse_json(text, TimeSlice())


async def test_names_of_python_for_nan_and_infinities_are_accepted():
    value = {"input": [float("nan"), float("inf"), float("-inf"), 1.5], "NaN": 'Infinity "NaN" \\'}
    read = await parse_json(json.dumps(value).encode(), TimeSlice())
    assert read == {"input": [None, "Infinity", "-Infinity", 1.5], "NaN": 'Infinity "NaN" \\'}


@pytest.mark.parametrize("text", ["NaNNaN", "[+Infinity]", "[NaN", '["NaN]', "nan", "[1NaN]"])
async def test_names_of_python_do_not_turn_other_texts_into_json(text):
    with pytest.raises(InvalidInput, match="Error parsing JSON"):
        await parse_json(text.encode(), TimeSlice())


async def test_long_arrays_may_contain_names_of_python():
    text = json.dumps([[float("nan"), 2.0]] * 5000).encode()
    assert await whole(await parse_json(text, TimeSlice())) == [[None, 2.0]] * 5000


@pytest.mark.timed
def test_an_unterminated_string_takes_linear_time():
    text = b'[NaN, "' + b'\\"' * 15_000

    def attempt() -> float:
        begin = time.thread_time()
        with pytest.raises(InvalidInput, match="Error parsing JSON"):
            parsed(text)
        return time.thread_time() - begin

    assert least_cost(attempt, 0.2) < 0.2


@pytest.mark.parametrize("unit", [b'"%200d":1,', b" ", b"x", b'"a":"%200d",'])
async def test_bytes_beside_long_values_are_bounded(unit):
    text = b'{"a":[' + b"1," * 20_000 + b"1]," + unit.replace(b"%200d", b"a" * 200) * 1_100_000
    with pytest.raises(InvalidInput, match="more than 1048576 bytes of JSON beside the data"):
        await parse_json(text, TimeSlice())


async def test_a_long_name_is_refused():
    with pytest.raises(InvalidInput, match="a name of more than 32768 bytes"):
        await parse_json(json.dumps({"a" * 40_000: 1}).encode(), TimeSlice())


# Long texts.

CHARACTERS = st.text(st.sampled_from('aé€😀\\"/\n'), max_size=200)


@pytest.mark.usefixtures("_short")
@settings(max_examples=examples(500))
@given(value=CHARACTERS, ascii_only=st.booleans(), spaces=st.integers(0, 40))
async def test_a_string_read_in_parts_is_the_same(value, ascii_only, spaces):
    text = " " * spaces + json.dumps([value, {"a": value}], ensure_ascii=ascii_only)
    assert await whole(await parse_json(text.encode(), TimeSlice())) == [value, {"a": value}]


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    "text",
    [
        b"\\ud83d",
        b"\\ude00",
        b"\\x",
        b"\\u12g",
        b"\n",
        b"\xff",
        b"\xc3",
        b"\x80" * 5,
        b"\xed\xa0\xbd",
    ],
)
@pytest.mark.parametrize("before", range(24, 40))
async def test_a_broken_string_is_refused_at_any_split(text, before):
    value = await parse_json(b'"' + b"a" * before + text + b"b" * 30 + b'"', TimeSlice())
    assert isinstance(value, LongText)
    with pytest.raises(InvalidInput, match="Error parsing JSON"):
        await value.parts(TimeSlice())


@pytest.mark.usefixtures("_short")
@given(data=st.binary(min_size=30, max_size=200), ascii_only=st.booleans())
async def test_base64_is_decoded_in_parts(data, ascii_only):
    text = base64.b64encode(data)
    if ascii_only:
        # PHP escapes slashes.
        text = text.replace(b"/", b"\\/")
    value = LongText(memoryview(b'"%b"' % text))
    assert b"".join(await decoded("x", value, TimeSlice())) == data


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    "text", [b"A" * 33, b"A" * 30 + b"==AAAA", b"A" * 62 + b"==" + b"A" * 64, b"A" * 40 + b" " * 40]
)
async def test_a_long_text_that_is_not_base64_is_refused(text):
    with pytest.raises(InvalidInput, match="input 'x' is not base64"):
        await decoded("x", LongText(memoryview(b'"%b"' % text)), TimeSlice())


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("value", ["a" * 100, ["b", "é" * 50, "c" * 33], [["a" * 50], ["b"]]])
async def test_long_texts_become_the_same_tensor_as_short_ones(value):
    long = await parse_json(json.dumps(value).encode(), TimeSlice())
    assert isinstance(long, (LongArray, LongText))
    tensor = await tensor_of_json("x", long, DataType.BYTES, 10, TimeSlice())
    expected = await tensor_of_json("x", value, DataType.BYTES, 10, TimeSlice())
    assert (tensor.shape, tensor.data) == (expected.shape, expected.data)


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("value", ["a" * 100, ["a" * 100]])
async def test_a_long_text_is_not_a_number(value):
    long = await parse_json(json.dumps(value).encode(), TimeSlice())
    with pytest.raises(InvalidInput, match="takes numbers, got"):
        await tensor_of_json("x", long, DataType.FP64, 100, TimeSlice())
