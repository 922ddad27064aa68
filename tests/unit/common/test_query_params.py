import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.query_params import params_from_json, params_to_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES))
def test_equal_parameters_have_one_text(params):
    text = params_to_json(params)
    assert text == params_to_json(dict(reversed(params.items())))
    assert params_from_json(text) == text
    assert (text == "") == (not params)


def test_numbers_keep_their_type():
    assert params_to_json({"b": 3, "a": 3.0}) == '{"a":3.0,"b":3}'


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"x": float("nan")}, "Out of range float values"),
        ({"x": b"bytes"}, "Object of type bytes is not JSON serializable"),
        ({"x": "a" * 65_536}, "at most 65536; send large values as inputs"),
        ({1: 2}, "parameter 1: its name is not a text"),
        ({str(number): 0 for number in range(257)}, "cannot pass 257 parameters"),
    ],
)
def test_illegal_parameters_are_refused(params, text):
    with pytest.raises(InvalidInput, match=text):
        params_to_json(params)


@pytest.mark.parametrize(
    "text", ["[]", "7", "{", "[" * 60_000, '{"x":NaN}', "{" + " " * 65_536 + "}"]
)
def test_what_is_not_a_small_json_object_is_refused(text):
    with pytest.raises(InvalidInput):
        params_from_json(text)


def test_an_empty_object_is_none():
    assert params_from_json("") == params_from_json("{}") == ""
