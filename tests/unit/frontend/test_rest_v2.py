import asyncio

import numpy as np
import pytest

from skysail_common import __version__
from skysail_common.errors import (
    Overloaded,
    SkysailError,
    Status,
    all_errors,
)
from skysail_common.tensors import (
    Content,
    DataType,
    Signature,
    Tensor,
    TensorSpec,
    from_numpy,
    join_bytes_elements,
)
from skysail_frontend.core.batch import QueryOutputs
from skysail_frontend.core.query import Query
from unit.frontend.doors import MAX_BODY_BYTES, HttpDoors
from unit.frontend.parts import (
    DOUBLES,
    Frontend,
    Function,
    TurningLoop,
    application,
    doubled,
    echoed,
    failing,
    served,
    signature_of,
    texts,
    turns,
)

INFER = "/v2/models/m/infer"


def doors(*versions, is_ready: bool = True, function: Function | None = doubled, **options):
    versions = versions or (served(),)
    frontend = Frontend(*versions, loop=TurningLoop, function=function, **options)
    return HttpDoors(frontend, is_ready=is_ready)


def giving(datatype: DataType, *dims: int, function: Function = echoed) -> HttpDoors:
    """Return a model that returns its inputs."""
    version = served(signature=signature_of(TensorSpec("x", datatype, (-1, *dims))))
    return doors(version, function=function)


def body_of(data: object = (0.0, 1.0, 2.0), datatype: str = "FP64", shape=(1, 3), **more) -> dict:
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}], **more}


# Server and model metadata.


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_the_server_metadata_have_name_and_extensions(path):
    response = await doors().get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "name": "our name",
        "version": __version__,
        "extensions": ["binary_tensor_data", "schedule_policy"],
    }


async def test_the_server_is_live():
    response = await doors().get("/v2/health/live")
    assert (response.status_code, response.json()) == (200, {"live": True})


@pytest.mark.parametrize(("is_ready", "status"), [(True, 200), (False, 400)])
async def test_the_readiness_of_the_server_is_answered(is_ready, status):
    response = await doors(is_ready=is_ready).get("/v2/health/ready")
    assert (response.status_code, response.json()) == (status, {"ready": is_ready})


@pytest.mark.parametrize("path", ["/v2/models/m", "/v2/models/m/versions/1"])
async def test_the_model_metadata_have_inputs_and_outputs(path):
    response = await doors(served("m:1"), served("m:2", is_current=False)).get(path)
    assert response.json() == {
        "name": "m",
        "versions": ["1", "2"],
        "platform": "python",
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1, 3]}],
    }


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v2/models/nope", "Request for unknown model: 'nope' is not found"),
        ("/v2/models/m/versions/9", "Request for unknown model: 'm' version 9 is not found"),
        ("/v2/models/nope/ready", "Request for unknown model: 'nope' is not found"),
        (
            "/v2/models/unrouted",
            "Request for unknown model: 'unrouted' has no available versions",
        ),
    ],
)
async def test_an_unknown_model_is_not_found(path, error):
    response = await doors(applications=[application("unrouted")]).get(path)
    assert (response.status_code, response.json()) == (404, {"error": error})


async def test_a_model_is_ready_while_it_has_a_ready_replica():
    client = doors()
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/1/ready"):
        response = await client.get(path)
        assert (response.status_code, response.json()) == (200, {"name": "m", "ready": True})
    client.frontend.replica.is_ready = False
    response = await client.get("/v2/models/m/ready")
    assert (response.status_code, response.json()) == (400, {"name": "m", "ready": False})


async def test_paths_and_verbs_that_are_not_served_are_json_errors():
    client = doors()
    response = await client.get("/v2/nothing/here")
    assert response.status_code == 404
    assert response.json()["error"].startswith("nothing is served at /v2/nothing/here; predictions")
    response = await client.get(INFER)
    assert response.status_code == 405
    assert response.json() == {"error": f"{INFER} does not support GET; use POST"}


# Queries and answers.


async def test_a_query_is_answered():
    response = await doors().post(INFER, body_of(id="seven"))
    assert response.status_code == 200
    assert response.json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "seven",
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [1, 3], "data": [0.0, 2.0, 4.0]}],
    }


async def test_an_answer_without_an_id_has_none():
    assert "id" not in (await doors().post(INFER, body_of())).json()


async def test_a_version_can_be_named():
    client = doors(served("m:1"), served("m:2", is_current=False))
    response = await client.post("/v2/models/m/versions/2/infer", body_of())
    assert response.json()["model_version"] == "2"
    response = await client.post("/v2/models/m/versions/9/infer", body_of())
    assert response.status_code == 404
    assert response.json() == {"error": "Request for unknown model: 'm' version 9 is not found"}


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6.0]]])
async def test_data_may_be_flat_or_nested_and_integers_for_doubles(data):
    response = await doors().post(INFER, body_of(data, shape=[2, 3]))
    assert response.json()["outputs"][0]["data"] == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]
    assert response.json()["outputs"][0]["shape"] == [2, 3]


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        (DataType.BOOL, [True, False, True]),
        (DataType.UINT8, [0, 1, 255]),
        (DataType.UINT16, [0, 1, 2**16 - 1]),
        (DataType.UINT32, [0, 1, 2**32 - 1]),
        (DataType.UINT64, [0, 1, 2**64 - 1]),
        (DataType.INT8, [-128, 1, 127]),
        (DataType.INT16, [-(2**15), 1, 2**15 - 1]),
        (DataType.INT32, [-(2**31), 1, 2**31 - 1]),
        (DataType.INT64, [-(2**63), 1, 2**63 - 1]),
        (DataType.FP16, [-1.5, 0.0, 65504.0]),
        (DataType.FP32, [-1.5, 0.0, 2.0**127]),
        (DataType.FP64, [-1.5, 0.1, 1e300]),
        (DataType.BYTES, ["", "text", "é"]),
    ],
)
async def test_every_datatype_travels_there_and_back(datatype, data):
    response = await giving(datatype, 3).post(INFER, body_of(data, datatype.name))
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    assert (output["datatype"], output["data"]) == (datatype.name, data)


async def test_bytes_that_are_not_text_are_answered_as_base64():
    output = texts("y", Content.BINARY)
    data = join_bytes_elements([b"\xff\xfe"])
    client = doors(
        served(signature=Signature(DOUBLES.inputs, (output,))),
        function=lambda _: QueryOutputs([data], [(1,)]),
    )
    assert (await client.post(INFER, body_of())).json()["outputs"][0]["data"] == ["//4="]


async def test_texts_that_are_json_are_answered_as_json():
    output = texts("y", Content.JSON_OR_TEXT, 2)
    data = join_bytes_elements([b'{"a": 1}', b"cat"])
    client = doors(
        served(signature=Signature(DOUBLES.inputs, (output,))),
        function=lambda _: QueryOutputs([data], [(1, 2)]),
    )
    answer = (await client.post(INFER, body_of())).json()
    assert answer["outputs"][0]["data"] == [{"a": 1}, "cat"]


async def test_only_the_wanted_outputs_are_answered():
    specs = (TensorSpec("x", DataType.FP64, (-1, 3)), TensorSpec("z", DataType.INT8, (-1,)))
    client = doors(served(signature=signature_of(*specs)), function=echoed)
    body = body_of()
    body["inputs"].append({"name": "z", "datatype": "INT8", "shape": [1], "data": [7]})
    answer = (await client.post(INFER, body)).json()
    assert [each["name"] for each in answer["outputs"]] == ["x", "z"]
    answer = (await client.post(INFER, {**body, "outputs": [{"name": "z"}]})).json()
    assert answer["outputs"] == [{"name": "z", "datatype": "INT8", "shape": [1], "data": [7]}]


async def test_nan_is_answered_as_null_and_infinities_by_name():
    outputs = QueryOutputs([np.array([np.nan, -np.inf, 1.0]).tobytes()], [(1, 3)])
    answer = (await doors(function=lambda _: outputs).post(INFER, body_of())).json()
    assert answer["outputs"][0]["data"] == [None, "-Infinity", 1.0]


# Refused.


def _input(**changes: object) -> dict:
    body = body_of()
    body["inputs"][0].update(changes)
    return body


def _input_without(member: str) -> dict:
    body = body_of()
    del body["inputs"][0][member]
    return body


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "Error parsing JSON: "),
        (b"{", "Error parsing JSON: "),
        (b'{"inputs": [nan]}', "Error parsing JSON: "),
        (b"\xff", "Error parsing JSON: "),
        (b"[" * 1500, "Error parsing JSON: "),
        ([], "the body must be a JSON object with the member 'inputs'"),
        ({}, "'inputs' must be a JSON array of tensors"),
        ({"inputs": {}}, "'inputs' must be a JSON array of tensors"),
        ({"inputs": [1]}, "each of 'inputs' must be a JSON object with the member 'name'"),
        ({"inputs": [{}]}, "each of 'inputs' must be a JSON object with the member 'name'"),
        (_input(name=1), "each of 'inputs' must be a JSON object with the member 'name'"),
        (_input_without("shape"), "input 'x' has no member 'shape'"),
        (_input_without("datatype"), "input 'x' has no member 'datatype'"),
        (_input_without("data"), "input 'x' has no member 'data'"),
        (_input(shape=3), "input 'x' needs a shape of integers and a datatype"),
        (_input(shape=[1.0, 3]), "input 'x' needs a shape of integers and a datatype"),
        (_input(shape=[True, 3]), "input 'x' needs a shape of integers and a datatype"),
        (_input(datatype=11), "input 'x' needs a shape of integers and a datatype"),
        (_input(datatype="fp64"), "'fp64' is not a datatype; known are BOOL"),
        (_input(datatype="BF16"), "input 'x' of datatype BF16 cannot be sent as JSON"),
        (_input(parameters=[]), "'parameters' must be a JSON object"),
        (_input(data=["a", "b", "c"]), "input 'x' takes numbers, got [\"a\""),
        (_input(data=[1, [2, 3]]), "input 'x' has rows of different lengths"),
        (
            _input(data=[1, 2]),
            "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'm'. "
            "Expected 24, got 16",
        ),
        (
            _input(data=1),
            "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'm'.",
        ),
        (
            _input(shape=[1, 4]),
            "[request id: <id_unknown>] unexpected shape for input 'x' for model 'm'. Expected "
            "[-1,3], got [1,4]",
        ),
        (
            _input(shape=[99999999999999, 99999999999]),
            "[request id: <id_unknown>] unexpected shape for input 'x' for model 'm'.",
        ),
        (
            _input(datatype="FP32"),
            "[request id: <id_unknown>] inference input 'x' data-type is 'FP32', but model 'm' "
            "expects 'FP64'",
        ),
        (_input(name="z"), "unexpected inference input 'z' for model 'm'"),
        (
            {"inputs": []},
            "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'm'.",
        ),
        (
            {"inputs": body_of()["inputs"] * 2, "id": "7"},
            "[request id: 7] input 'x' already exists in request",
        ),
        (body_of(id=7), "'id' must be a string"),
        (body_of(parameters=7), "'parameters' must be a JSON object"),
        (body_of(outputs={}), "'outputs' must be a JSON array of objects with the member 'name'"),
        (body_of(outputs=[{}]), "'outputs' must be a JSON array of objects with the member"),
        (body_of(outputs=[7]), "'outputs' must be a JSON array of objects with the member"),
        (
            body_of(outputs=[{"name": "NOPE"}]),
            "unexpected inference output 'NOPE' for model 'm'; it gives y",
        ),
        (
            body_of(parameters={"timeout": "1"}),
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        (
            body_of(parameters={"priority": -1}),
            "invalid value for 'priority', expected value >= 0.",
        ),
        (
            body_of(parameters={"triton_x": 1}),
            "parameter keys starting with 'triton_' are reserved for Triton usage.",
        ),
    ],
)
async def test_a_wrong_body_is_refused(body, error):
    client = doors()
    response = await client.post(INFER, body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(error)
    assert client.frontend.dispatcher.num_unsettled == 0


@pytest.mark.parametrize(
    "body",
    [
        body_of(parameters={"sequence_id": 1}),
        _input(parameters={"shared_memory_region": "r"}),
        body_of(outputs=[{"name": "y", "parameters": {"classification": 3}}]),
    ],
)
async def test_unsupported_features_are_refused_as_unsupported(body):
    response = await doors().post(INFER, body)
    assert response.status_code == 501
    assert "not" in response.json()["error"]


async def test_an_output_with_binary_data_false_is_accepted():
    body = body_of(outputs=[{"name": "y", "parameters": {"binary_data": False}}])
    assert (await doors().post(INFER, body)).status_code == 200


async def test_a_too_large_declared_body_is_not_read():
    async def never():
        raise AssertionError("it is read")
        yield b""

    headers = {"content-length": str(MAX_BODY_BYTES + 1)}
    response = await doors().post(INFER, never(), headers)
    assert response.status_code == 413
    assert response.json() == {
        "error": f"the body is {MAX_BODY_BYTES + 1} bytes; the limit is {MAX_BODY_BYTES}, which "
        "SKYSAIL_FRONTEND_MAX_MESSAGE_MIB sets"
    }


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end():
    num_parts = 0

    async def endless():
        nonlocal num_parts
        while True:
            num_parts += 1
            yield b" " * 500

    response = await doors().post(INFER, endless())
    assert response.status_code == 413
    assert "larger than the limit" in response.json()["error"]
    assert num_parts <= MAX_BODY_BYTES // 500 + 1


async def test_a_body_of_exactly_the_limit_is_accepted():
    body = b'{"inputs": []}'.ljust(MAX_BODY_BYTES)
    assert (await doors().post(INFER, body)).status_code == 400


# Errors of queries.

STATUSES = {
    Status.INVALID_ARGUMENT: 400,
    Status.FAILED_PRECONDITION: 400,
    Status.UNAUTHENTICATED: 401,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.ABORTED: 409,
    Status.INTERNAL: 500,
    Status.UNIMPLEMENTED: 501,
    Status.RESOURCE_EXHAUSTED: 503,
    Status.UNAVAILABLE: 503,
    Status.DEADLINE_EXCEEDED: 504,
}


@pytest.mark.parametrize(
    "kind",
    [kind for kind in all_errors() if kind.__module__ == SkysailError.__module__],
    ids=lambda kind: kind.__name__,
)
async def test_every_error_has_its_status_and_its_message(kind):
    response = await doors(function=failing(kind("it says why"))).post(INFER, body_of())
    assert response.status_code == STATUSES[kind.status]
    assert response.json() == {"error": "it says why"}


async def test_an_internal_error_reveals_nothing():
    client = doors()
    client.frontend.dispatcher.submit = None
    response = await client.post(INFER, body_of())
    assert (response.status_code, response.json()) == (500, {"error": "internal error"})


@pytest.mark.parametrize("body", [body_of(parameters={"timeout": 20_000}), body_of()])
async def test_a_missed_deadline_is_a_gateway_timeout(body):
    client = doors(function=None, default_timeout_s=0.02)
    response = await client.post_and_wait(INFER, body, 0.03)
    assert response.status_code == 504
    assert response.json() == {"error": "model 'm:1' did not answer within 0.02 s"}


async def test_no_replica_is_unavailable():
    response = await doors(served(num_replicas=0)).post(INFER, body_of())
    assert response.status_code == 503


async def test_a_full_queue_is_unavailable():
    client = doors(function=None, max_queue_size=1)
    client.frontend.replica.is_ready = False
    client.frontend.submit()
    response = await client.post(INFER, body_of())
    assert response.status_code == STATUSES[Overloaded.status]
    assert response.json()["error"].startswith("Exceeds maximum queue size")


async def test_parameters_mark_a_default_output():
    app = application("app", "m:", default=[1, 2, 3])
    client = doors(function=None, applications=[app])
    response = await client.post_and_wait("/v2/models/app/infer", body_of(), 0.2)
    assert response.status_code == 200
    assert response.json() == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}],
        "parameters": {
            "skysail_outcome": "DEFAULT_DEADLINE",
            "skysail_explanation": (
                "Failed to retrieve a prediction response within the specified latency SLO"
            ),
        },
    }


async def test_a_cancelled_request_cancels_its_query():
    client = doors(function=None)
    posting = asyncio.ensure_future(client.post(INFER, body_of()))
    await turns()
    assert client.frontend.dispatcher.num_unsettled == 1
    posting.cancel()
    await asyncio.gather(posting, return_exceptions=True)
    assert client.frontend.dispatcher.num_unsettled == 0


# Clients as they are.


async def test_null_members_count_as_absent():
    body = body_of() | {"id": None, "parameters": None, "outputs": None}
    body["inputs"][0]["parameters"] = None
    response = await doors().post(INFER, body)
    assert response.status_code == 200, response.text
    assert "id" not in response.json()
    body["parameters"] = {"binary_data_output": None, "priority": None}
    body["outputs"] = [{"name": "y", "parameters": {"binary_data": None}}]
    assert (await doors().post(INFER, body)).status_code == 200


@pytest.mark.parametrize("path", [INFER, "/m/predict"])
async def test_the_error_about_a_wrong_method_names_the_right_one(path):
    response = await doors().get(path)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_a_trailing_slash_makes_no_difference():
    client = doors()
    response = await client.post(f"{INFER}/", body_of())
    assert response.status_code == 200
    assert (await client.get("/v2/health/live/")).status_code == 200
    assert (await client.get("/v2//")).status_code == 200
    assert (await client.get("/")).status_code == 404


@pytest.mark.parametrize("datatype", ["FP64", "BYTES", "INT64", "BOOL"])
@pytest.mark.parametrize("value", ["[" * 400 + "1" + "]" * 400, "[[" * 30 + "{}" + "]]" * 30])
async def test_deep_nesting_is_a_client_error(datatype, value):
    client = giving(DataType.named(datatype), 3)
    head = f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[1,3],"data":{value}}}]}}'
    response = await client.post(INFER, head.encode())
    assert response.status_code == 400
    assert response.json()["error"].startswith("input 'x' ")
    assert len(response.text) < 300


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        ("multipart/form-data; boundary=a", "the body is multipart; send JSON as application/json"),
        ("application/json; charset=utf-16", "the body has charset 'utf-16'; send JSON in UTF-8"),
    ],
)
async def test_a_type_that_cannot_be_json_is_refused(content_type, error):
    response = await doors().post(INFER, body_of(), {"content-type": content_type})
    assert (response.status_code, response.json()) == (400, {"error": error})


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", 'a/b; charset="UTF-8"']
)
async def test_common_wrong_content_types_are_accepted(content_type):
    response = await doors().post(INFER, body_of(), {"content-type": content_type})
    assert response.status_code == 200


@pytest.mark.parametrize("size", [9_000, 40_000])
async def test_a_large_answer_has_the_form_of_a_small_one(size):
    values = np.arange(size, dtype="<f4") / 7
    values[[1, 5]] = np.nan, np.inf
    for datatype, data in (
        (DataType.FP32, values),
        (DataType.INT64, np.arange(size)),
        (DataType.BYTES, np.array([f"a{number}" for number in range(size)], dtype=object)),
    ):
        tensor = from_numpy("y", data)

        def give(_: Query, tensor: Tensor = tensor) -> QueryOutputs:
            return QueryOutputs([tensor.data], [(1, size)])

        signature = Signature(DOUBLES.inputs, (TensorSpec("y", datatype, (-1, -1)),))
        frontend = Frontend(served(signature=signature), loop=TurningLoop, function=give)
        (output,) = (await HttpDoors(frontend, max_bytes=2**20).post(INFER, body_of())).json()[
            "outputs"
        ]
        expected = data.tolist()
        if datatype is DataType.FP32:
            expected[1], expected[5] = None, "Infinity"
        assert output["data"] == expected
        assert output["shape"] == [1, size]


async def test_the_time_of_a_query_starts_at_the_end_of_its_head():
    frontend = Frontend(served(), loop=TurningLoop)
    arrival = frontend.clock()
    client = HttpDoors(frontend, arrival=arrival)
    frontend.clock.advance(0.3)
    posting = asyncio.ensure_future(client.post(INFER, body_of(), {"skysail-timeout-ms": "500"}))
    await turns()
    frontend.loop.advance(0.19)
    assert not posting.done()
    frontend.loop.advance(0.02)
    assert (await posting).status_code == 504


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:8000", 200),
        ("a.example", 421),
        ("localhost.a.example:8000", 421),
        ("", 200),
    ],
)
async def test_only_hosts_that_are_allowed_are_served(host, status):
    client = HttpDoors(Frontend(served()), hosts={"localhost", "::1"})
    response = await client.get("/v2/health/live", {"host": host})
    assert response.status_code == status
    if status == 421:
        assert response.json()["error"].endswith("see the setting http_allowed_hosts")
