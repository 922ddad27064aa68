import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput, Unsupported
from skysail_frontend.ingress.infer_parameters import check_tensor_parameters, request_options
from skysail_testing.examples import examples


@settings(max_examples=examples(25))
@given(st.integers(1, 2**63 - 1))
def test_the_timeout_is_in_microseconds(timeout):
    assert request_options({"timeout": timeout}).timeout_s == pytest.approx(timeout / 1e6)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"timeout": 0},
        {"timeout": None},
        {"priority": 1},
        {"priority": 0},
        {"triton_enable_empty_final_response": True},
        {"sequence_start": True},
    ],
)
def test_without_a_timeout_there_is_none(parameters):
    assert request_options(parameters).timeout_s is None


@pytest.mark.parametrize(
    ("parameters", "beginning"),
    [
        ({"timeout": -1}, "invalid value for 'timeout', expected"),
        ({"priority": -1}, "invalid value for 'priority', expected value >= 0."),
        *(
            (
                {"timeout": value},
                "invalid value type for 'timeout' parameter, expected int64_param.",
            )
            for value in (1.5, "1", True, [1], {})
        ),
        *(
            (
                {"priority": value},
                "invalid value type for 'priority' parameter, expected uint64_param.",
            )
            for value in (1.5, "1", False)
        ),
        ({"triton_x": 1}, "parameter keys starting with 'triton_' are reserved for Triton usage."),
    ],
)
def test_wrong_parameters_are_refused(parameters, beginning):
    with pytest.raises(InvalidInput) as caught:
        request_options(parameters)
    assert caught.value.message.startswith(beginning)


def test_sequences_are_unsupported():
    with pytest.raises(Unsupported, match="sequence_id"):
        request_options({"sequence_id": 0})


@pytest.mark.parametrize("name", ["shared_memory_region", "classification"])
def test_tensors_with_unsupported_options_are_refused(name):
    with pytest.raises(Unsupported, match="output 'y'"):
        check_tensor_parameters("output", "y", {name: 1})


def test_other_options_of_tensors_are_ignored():
    check_tensor_parameters("input", "x", {})
    check_tensor_parameters("input", "x", {"binary_data_size": 3, "anything": None})
