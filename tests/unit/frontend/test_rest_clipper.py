import asyncio
import base64
import json

import numpy as np
import pytest

from skysail_common.errors import InvalidInput, ModelFailed, SkysailError, all_errors
from skysail_common.tensors import (
    CLIPPER_SPECS,
    Content,
    DataType,
    InputType,
    Signature,
    TensorSpec,
    join_bytes_elements,
    split_bytes_elements,
)
from skysail_frontend.core.batch import QueryError, QueryOutputs
from skysail_frontend.ingress.http import http_status
from skysail_frontend.ingress.http_bodies import BodyTooLarge
from skysail_frontend.ingress.rest_clipper import clipper_error
from unit.frontend.doors import MAX_BODY_BYTES, HttpDoors
from unit.frontend.parts import (
    DOUBLES,
    NO_DEFAULT,
    Frontend,
    Function,
    TurningLoop,
    application,
    doubled,
    failing,
    served,
    texts,
    turns,
)

PREDICT = "/app/predict"

LIST_OUTPUT = texts("output", Content.JSON_OR_TEXT)


def doors(
    *versions,
    default: object = NO_DEFAULT,
    function: Function | None = doubled,
    max_bytes: int = MAX_BODY_BYTES,
    **options,
) -> HttpDoors:
    versions = versions or (served(),)
    apps = [application("app", "m:", default=default), application("unrouted", default="none")]
    frontend = Frontend(
        *versions, applications=apps, loop=TurningLoop, function=function, **options
    )
    return HttpDoors(frontend, max_bytes=max_bytes)


def taking(input_type: InputType, function: Function) -> HttpDoors:
    """Return a model in the form of Clipper: it maps a list of values to texts."""
    signature = Signature((CLIPPER_SPECS[input_type],), (LIST_OUTPUT,))
    return doors(served(signature=signature, max_batch_size=100), function=function)


def telling(value: str) -> QueryOutputs:
    return QueryOutputs([join_bytes_elements([value.encode()])], [(1,)])


@pytest.mark.parametrize("path", [PREDICT, PREDICT + "/"])
async def test_an_input_is_answered(path):
    response = await doors().post(path, {"input": [1.5, 2.5, 3.5]})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert isinstance(answer.pop("query_id"), int)
    assert answer == {"output": [3.0, 5.0, 7.0], "default": False}


async def test_integers_are_accepted_where_an_application_takes_doubles():
    assert (await doors().post(PREDICT, {"input": [1, 2.0, 3]})).json()["output"] == [2, 4, 6]


async def test_a_batch_is_answered_in_order_with_an_id_each():
    client = doors(served(max_batch_size=100))
    batch = [[float(index)] * 3 for index in range(20)]
    response = await client.post(PREDICT, {"input_batch": batch})
    predictions = response.json()["batch_predictions"]
    assert [each["output"] for each in predictions] == [[2.0 * index] * 3 for index in range(20)]
    assert len({each["query_id"] for each in predictions}) == 20
    assert client.frontend.replica.sizes == [20]


async def test_a_batch_of_one_is_answered_as_a_batch():
    response = await doors().post(PREDICT, {"input_batch": [[1, 2, 3]]})
    (prediction,) = response.json()["batch_predictions"]
    assert prediction["output"] == [2, 4, 6]


@pytest.mark.parametrize(
    ("input_type", "value", "seen"),
    [
        (InputType.INTEGERS, [1, 2, 3], "[1, 2, 3]"),
        (InputType.FLOATS, [1, 2.5], "[1.0, 2.5]"),
        (InputType.DOUBLES, [0.1], "[0.1]"),
    ],
)
async def test_numbers_arrive_as_lists_of_any_length(input_type, value, seen):
    dtype = CLIPPER_SPECS[input_type].datatype.dtype

    def function(query):
        return telling(str(np.frombuffer(query.inputs[0], dtype).tolist()))

    client = taking(input_type, function)
    response = await client.post(PREDICT, {"input": value})
    assert response.json()["output"] == json.loads(seen)
    assert len(value) == client.frontend.replica.sent[0].queries[0].variable_dims[0]


async def test_texts_arrive_unchanged():
    def shout(query):
        (text,) = split_bytes_elements(query.inputs[0], 1)
        return telling(text.decode().upper())

    client = taking(InputType.STRINGS, shout)
    assert (await client.post(PREDICT, {"input": "été"})).json()["output"] == "ÉTÉ"
    assert (await client.post(PREDICT, {"input": ""})).json()["output"] == ""


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ('"a good film"', "a good film"),
        ('{"instances":[6,3],"input":null}', '{"instances":[6,3],"input":null}'),
        ("[6,3,5,2]", "[6,3,5,2]"),
        ("7", "7"),
        (f'{{"a":[{",".join(["1"] * 50_000)}],"b":["{"é" * 50_000}"]}}', None),
    ],
)
async def test_any_json_is_the_value_of_an_input_of_json_or_text(value, seen):
    arrived: list[bytes] = []
    client = doors(
        served(signature=Signature((texts("input", Content.JSON_OR_TEXT),), (LIST_OUTPUT,))),
        function=lambda query: arrived.extend(query.inputs) or telling(""),
        max_bytes=1 << 20,
    )
    response = await client.post(PREDICT, f'{{"input":{value}}}'.encode())
    assert response.status_code == 200, response.text
    (element,) = split_bytes_elements(arrived[0], 1)
    assert element.decode() == (value if seen is None else seen)


async def test_bytes_come_as_base64():
    def length(query):
        return telling(str(len(split_bytes_elements(query.inputs[0], 1)[0])))

    client = taking(InputType.BYTES, length)
    value = base64.b64encode(bytes(range(256))).decode()
    assert (await client.post(PREDICT, {"input": value})).json()["output"] == 256
    batch = [value, "", base64.b64encode(b"ab").decode()]
    predictions = (await client.post(PREDICT, {"input_batch": batch})).json()["batch_predictions"]
    assert [each["output"] for each in predictions] == [256, 0, 2]


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("1", 1),
        ("[1,2]", [1, 2]),
        ('{"a":null}', {"a": None}),
        ("cat", "cat"),
        ("NaN", None),
        ("[-Infinity]", ["-Infinity"]),
        ('"NaN"', "NaN"),
    ],
)
async def test_an_output_that_is_json_is_answered_as_json(text, output):
    client = taking(InputType.DOUBLES, lambda _: telling(text))
    assert (await client.post(PREDICT, {"input": [1.0]})).json()["output"] == output


async def test_texts_of_several_dimensions_can_be_answered():
    signature = Signature(DOUBLES.inputs, (texts("y", Content.TEXT, 2),))
    data = join_bytes_elements([b"a", b"b"])
    client = doors(served(signature=signature), function=lambda _: QueryOutputs([data], [(1, 2)]))
    assert (await client.post(PREDICT, {"input": [1, 2, 3]})).json()["output"] == ["a", "b"]


@pytest.mark.parametrize("content", [Content.TEXT, Content.BINARY])
@pytest.mark.parametrize("size", [5, 50_000])
async def test_a_text_may_be_long(content, size):
    value = "aé\n" * size
    sent = value if content is Content.TEXT else base64.b64encode(value.encode()).decode()

    def told(query):
        (text,) = split_bytes_elements(query.inputs[0], 1)
        return telling(f"{text.decode() == value}")

    signature = Signature((texts("x", content),), (LIST_OUTPUT,))
    client = doors(served(signature=signature), function=told, max_bytes=10**6)
    for body in ({"input": sent}, {"input": {"x": sent}}):
        response = await client.post(PREDICT, body)
        assert response.json()["output"] == "True"
    response = await client.post(PREDICT, {"input_batch": ["", sent, ""]})
    outputs = [each["output"] for each in response.json()["batch_predictions"]]
    assert outputs == ["False", "True", "False"]


async def test_several_inputs_and_outputs_are_objects():
    signature = Signature(
        (TensorSpec("a", DataType.FP64, (-1,)), texts("b")),
        (TensorSpec("c", DataType.FP32, (-1,)), TensorSpec("d", DataType.BOOL, (-1, 2))),
    )

    def function(query):
        (a,) = np.frombuffer(query.inputs[0])
        c = np.array([a + 0.5], "<f4").tobytes()
        return QueryOutputs([c, b"\1\0"], [(1,), (1, 2)])

    client = doors(served(signature=signature), function=function)
    response = await client.post(PREDICT, {"input": {"b": "text", "a": 1}})
    assert response.json()["output"] == {"c": 1.5, "d": [True, False]}
    for value, text in (
        ([1, "text"], "the input must be a JSON object with a, b"),
        ({"a": 1, "z": 2}, "the model has no input 'z'; it takes a, b"),
        ({"a": 1}, "expected 2 inputs but got 1 inputs for model 'm'."),
    ):
        response = await client.post(PREDICT, {"input": value})
        assert response.status_code == 400
        assert response.json()["cause"].startswith(text)


async def test_a_sole_input_may_be_named():
    assert (await doors().post(PREDICT, {"input": {"x": [1, 2, 3]}})).json()["output"] == [2, 4, 6]


async def test_the_version_decides_which_model_answers():
    client = doors(served("m:1"), served("m:2", is_current=False))
    first, second = client.frontend.replicas
    await client.post(PREDICT, {"input": [1, 2, 3], "version": "2"})
    assert (len(first.sent), len(second.sent)) == (0, 1)
    await client.post(PREDICT, {"input": [1, 2, 3]})
    await client.post(PREDICT, {"input": [1, 2, 3], "version": ""})
    assert (len(first.sent), len(second.sent)) == (2, 1)


async def test_an_unknown_version_has_the_error_of_clipper():
    response = await doors().post(PREDICT, {"input": [1, 2, 3], "version": "X"})
    assert response.status_code == 404
    assert response.json() == {
        "error": "Query processing error",
        "cause": "Requested version: X does not exist for model: m",
    }


async def test_an_unknown_application_is_not_found():
    response = await doors().post("/nope/predict", {"input": [1, 2, 3]})
    assert response.status_code == 404
    assert response.json() == {
        "error": "Query processing error",
        "cause": "application 'nope' is not registered",
    }


async def test_a_model_is_not_an_application():
    response = await doors().post("/m/predict", {"input": [1, 2, 3]})
    assert response.status_code == 404
    assert response.json()["cause"] == (
        "application 'm' is not registered; a model has this name: link an application to it, or "
        "query /v2/models/m/infer"
    )


# Refused.


KEYS = "JSON object does not have required keys input or input_batch"


@pytest.mark.parametrize(
    ("body", "error", "cause"),
    [
        (b"", "Json error", "Error parsing JSON: "),
        (b"{", "Json error", "Error parsing JSON: "),
        (b'{"input": [1, 2, 3]} x', "Json error", "Error parsing JSON: "),
        ([], "Json error", KEYS),
        ({}, "Json error", KEYS),
        ({"inputs": [1]}, "Json error", KEYS),
        (
            {"input": [1], "input_batch": [[1]]},
            "Json error",
            "JSON object has both keys input and input_batch",
        ),
        ({"input_batch": []}, "Json error", "'input_batch' must be a JSON array of 1 to"),
        ({"input_batch": {}}, "Json error", "'input_batch' must be a JSON array of 1 to"),
        (
            {"input": [1, 2, 3], "version": 1},
            "Query processing error",
            "'version' must be a string",
        ),
        ({"input": "a"}, "Query processing error", "input 'x' takes numbers, got"),
        ({"input": None}, "Query processing error", "input 'x' takes a value with 1 dimensions"),
        ({"input": [1, "a", 3]}, "Query processing error", "input 'x' takes numbers, got"),
        ({"input": 1}, "Query processing error", "input 'x' takes a value with 1 dimensions"),
        ({"input": [[1], [2, 3]]}, "Query processing error", "input 'x' has rows of different"),
        ({"input": [1, 2]}, "Query processing error", "unexpected shape for input 'x'"),
        ({"input": []}, "Query processing error", "unexpected shape for input 'x'"),
        (
            {"input_batch": [[1, 2, 3], [1, 2, True]]},
            "Query processing error",
            "input_batch[1]: input 'x' takes numbers, got",
        ),
        (
            {"input_batch": [[1, 2, 3]] * 7 + [[1, 2], [1]]},
            "Query processing error",
            "input_batch[7]: unexpected shape for input 'x'",
        ),
        (
            {"input_batch": [{"x": [1, 2, 3]}, {"y": [1, 2, 3]}]},
            "Query processing error",
            "input_batch[1]: the model has no input 'y'",
        ),
    ],
)
async def test_a_wrong_body_is_refused(body, error, cause):
    client = doors()
    response = await client.post(PREDICT, body)
    assert response.status_code == 400
    assert response.json()["error"] == error
    assert response.json()["cause"].startswith(cause)
    await turns()
    assert client.frontend.replica.sent == []


@pytest.mark.parametrize("value", ["a", "é", 7])
async def test_a_text_that_is_not_base64_is_refused(value):
    client = taking(InputType.BYTES, lambda _: telling(""))
    response = await client.post(PREDICT, {"input": value})
    assert response.status_code == 400
    assert "base64" in response.json()["cause"]


async def test_half_a_surrogate_pair_is_refused():
    client = taking(InputType.STRINGS, lambda _: telling(""))
    response = await client.post(PREDICT, b'{"input": "\\ud800"}')
    assert response.status_code == 400


async def test_a_body_that_is_too_large_is_refused():
    response = await doors().post(PREDICT, b" " * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413
    assert response.json() == {
        "error": "Query processing error",
        "cause": f"the body is {MAX_BODY_BYTES + 1} bytes; the limit is {MAX_BODY_BYTES}, which "
        "SKYSAIL_FRONTEND_MAX_MESSAGE_MIB sets",
    }


async def test_other_verbs_are_refused():
    response = await doors().get(PREDICT)
    assert response.status_code == 405
    assert response.json() == {"error": f"{PREDICT} does not support GET; use POST"}


@pytest.mark.parametrize(
    "kind",
    [kind for kind in all_errors() if kind.__module__ == SkysailError.__module__],
    ids=lambda kind: kind.__name__,
)
async def test_every_error_has_the_form_of_clipper(kind):
    response = await doors(function=failing(kind("it says why"))).post(
        PREDICT, {"input": [1, 2, 3]}
    )
    assert response.status_code == http_status(kind("it says why"))
    assert response.json() == {"error": "Query processing error", "cause": "it says why"}


async def test_an_internal_error_reveals_nothing():
    client = doors()
    client.frontend.dispatcher.submit = None
    response = await client.post(PREDICT, {"input": [1, 2, 3]})
    assert response.status_code == 500
    assert response.json() == {"error": "Query processing error", "cause": "internal error"}


async def test_one_failed_input_of_a_batch_fails_alone():
    def function(query):
        is_bad = np.frombuffer(query.inputs[0])[0] == 1
        return QueryError(ModelFailed("ValueError: no")) if is_bad else doubled(query)

    client = doors(function=function)
    response = await client.post(PREDICT, {"input_batch": [[0] * 3, [1] * 3, [2] * 3]})
    assert response.status_code == 200
    first, second, third = response.json()["batch_predictions"]
    assert (first["output"], third["output"]) == ([0, 0, 0], [4, 4, 4])
    assert (second["error"], second["cause"]) == ("Query processing error", "ValueError: no")
    assert client.frontend.dispatcher.num_unsettled == 0


@pytest.mark.parametrize(
    ("error", "body"),
    [
        (
            InvalidInput("Error parsing JSON: no"),
            {"error": "Json error", "cause": "Error parsing JSON: no"},
        ),
        (
            ModelFailed("JSONDecodeError: no"),
            {"error": "Query processing error", "cause": "JSONDecodeError: no"},
        ),
    ],
)
def test_errors_in_json_have_their_own_text(error, body):
    assert clipper_error(error) == body


def test_a_body_too_large_has_its_own_status():
    assert http_status(BodyTooLarge("too large")) == 413


# Default outputs.


async def test_a_missed_deadline_is_answered_with_the_default_output():
    client = doors(default=[0, 0, 0], function=None)
    response = await client.post_and_wait(PREDICT, {"input": [1, 2, 3]}, 0.2)
    assert response.status_code == 200
    answer = response.json()
    assert isinstance(answer.pop("query_id"), int)
    assert answer == {
        "output": [0, 0, 0],
        "default": True,
        "default_explanation": (
            "Failed to retrieve a prediction response within the specified latency SLO"
        ),
    }


@pytest.mark.parametrize("value", [1, 1.5, "none", None, [1, "a"], {"a": {"b": []}}, True])
async def test_a_default_output_may_be_any_json_value(value):
    client = doors(served(num_replicas=0), default=value)
    answer = (await client.post(PREDICT, {"input": [1, 2, 3]})).json()
    assert answer["output"] == value
    assert answer["default"] is True
    assert answer["default_explanation"] == "No connected models found for query"


async def test_an_application_without_routes_answers_any_input_by_its_default_output():
    client = doors()
    for body in ({"input": [1.0]}, {"input": "text"}, {"input": {"a": None}}):
        answer = (await client.post("/unrouted/predict", body)).json()
        assert (answer["output"], answer["default"]) == ("none", True)
        assert answer["default_explanation"] == "No connected models found for query"
    response = await client.post("/unrouted/predict", {"input_batch": [1, 2]})
    assert [each["output"] for each in response.json()["batch_predictions"]] == ["none"] * 2


async def test_each_input_of_a_batch_has_its_own_default():
    def function(query):
        is_bad = np.frombuffer(query.inputs[0])[0] == 1
        return QueryError(ModelFailed("ValueError: no")) if is_bad else doubled(query)

    client = doors(default="none", function=function)
    response = await client.post(PREDICT, {"input_batch": [[0] * 3, [1] * 3, [2] * 3]})
    assert response.status_code == 200
    predictions = response.json()["batch_predictions"]
    assert [each["output"] for each in predictions] == [[0, 0, 0], "none", [4, 4, 4]]
    assert [each["default"] for each in predictions] == [False, True, False]
    assert predictions[1]["default_explanation"] == "the model failed: ValueError: no"


async def test_a_cancelled_request_cancels_its_queries():
    client = doors(function=None)
    posting = asyncio.ensure_future(client.post(PREDICT, {"input_batch": [[1, 2, 3]] * 5}))
    await turns()
    assert client.frontend.dispatcher.num_unsettled == 5
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    assert client.frontend.dispatcher.num_unsettled == 0
