import pytest

from skysail_common.errors import InvalidInput, SkysailError, Unsupported
from unit.frontend.grpc_inference.calls import ask, infer, refusal, request_of
from unit.frontend.parts import Frontend, served


def parameter_error(frontend: Frontend, name: str, field: str, value: object) -> SkysailError:
    request = request_of()
    setattr(request.parameters[name], field, value)
    return refusal(frontend, request)


@pytest.mark.parametrize(
    ("name", "field", "value", "text"),
    [
        (
            "timeout",
            "string_param",
            "1",
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        (
            "timeout",
            "bool_param",
            True,
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        (
            "timeout",
            "double_param",
            1.0,
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        ("timeout", "int64_param", -5, "invalid value for 'timeout', expected"),
        ("priority", "int64_param", -1, "invalid value for 'priority', expected value >= 0."),
        ("priority", "string_param", "1", "invalid value type for 'priority' parameter"),
        (
            "triton_anything",
            "bool_param",
            True,
            "parameter keys starting with 'triton_' are reserved for Triton usage. Only the "
            "following keys starting with 'triton_' are allowed: "
            "triton_enable_empty_final_response",
        ),
    ],
)
def test_wrong_parameters_are_refused_with_the_text_of_triton(frontend, name, field, value, text):
    error = parameter_error(frontend, name, field, value)
    assert isinstance(error, InvalidInput)
    assert error.message.startswith(text)


def test_sequences_are_not_supported(frontend):
    for field, value in (("int64_param", 77), ("string_param", "a")):
        assert isinstance(parameter_error(frontend, "sequence_id", field, value), Unsupported)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("timeout", "int64_param", 0),
        ("timeout", "uint64_param", 1_000_000),
        ("priority", "uint64_param", 2**64 - 1),
        ("triton_enable_empty_final_response", "bool_param", True),
        ("binary_data_output", "bool_param", True),
        ("headers", "string_param", "x"),
    ],
)
def test_other_parameters_are_ignored(frontend, name, field, value):
    request = request_of()
    setattr(request.parameters[name], field, value)
    assert infer(frontend, request).model_name == "m"


def test_a_parameter_without_a_value_is_no_timeout(frontend):
    request = request_of()
    request.parameters["timeout"].SetInParent()
    error = refusal(frontend, request)
    assert error.message.startswith("invalid value type for 'timeout' parameter")


@pytest.mark.parametrize("name", ["shared_memory_region", "classification"])
def test_shared_memory_and_classification_are_not_supported(frontend, name):
    request = request_of()
    request.inputs[0].parameters[name].string_param = "region"
    error = refusal(frontend, request)
    assert isinstance(error, Unsupported)
    assert error.message.endswith("input 'x'")
    request = request_of()
    request.outputs.add(name="y").parameters[name].string_param = "region"
    error = refusal(frontend, request)
    assert isinstance(error, Unsupported)
    assert error.message.endswith("output 'y'")


def test_the_priority_of_a_request_ranks_it():
    frontend = Frontend(served(max_batch_size=1))
    frontend.replica.is_ready = False
    for priority in (0, 3, 1):
        request = request_of(id=str(priority))
        request.parameters["priority"].uint64_param = priority
        ask(frontend, "ModelInfer", request)
    frontend.replica.revive()
    for _ in range(3):
        frontend.loop.turn()
        frontend.replica.answer()
    assert [batch.queries[0].query_id for batch in frontend.replica.sent] == ["1", "0", "3"]
