"""Parameters of queries on their way from each door to the batch."""

import json
from dataclasses import replace

import pytest

from skysail_common.errors import InvalidInput
from skysail_common.serving_options import ServingOptions
from skysail_frontend.core.prediction_cache import PredictionCache
from skysail_frontend.core.splitting import split_query
from skysail_frontend.upstream.batch_messages import encode_batch
from skysail_protos.v1 import model_server_pb2
from unit.frontend.doors import HttpDoors
from unit.frontend.grpc_inference import calls as inference
from unit.frontend.grpc_query import calls as queries
from unit.frontend.parts import Frontend, TurningLoop, application, doubled, served

TAKING = replace(served(), takes_params=True)
PARAMS = {"threshold": 0.3, "labels": ["a"]}
TEXT = '{"labels":["a"],"threshold":0.3}'


def sent(frontend: Frontend) -> list[str]:
    """Return the parameters of each query that was sent."""
    return [query.params for batch in frontend.replica.sent for query in batch.queries]


def infer_request(**parameters: object):
    request = inference.request_of()
    for name, value in parameters.items():
        kind = {bool: "bool", int: "int64", float: "double", str: "string"}[type(value)]
        setattr(request.parameters[name], f"{kind}_param", value)
    return request


@pytest.fixture
def frontend() -> Frontend:
    return Frontend(TAKING, function=doubled)


def doors(*versions) -> HttpDoors:
    apps = [application("app", "m:")]
    frontend = Frontend(
        *(versions or [TAKING]), applications=apps, loop=TurningLoop, function=doubled
    )
    return HttpDoors(frontend, max_bytes=200_000)


def test_the_query_service_takes_json(frontend):
    call = queries.ask(frontend, queries.request_of(params_json=json.dumps(PARAMS)))
    frontend.loop.turn()
    assert call.error is None
    assert sent(frontend) == [TEXT]


@pytest.mark.parametrize("text", ["[]", "{", '{"a": NaN}', json.dumps({"a": "b" * 70_000})])
def test_the_query_service_refuses_what_is_not_a_small_object(frontend, text):
    assert isinstance(queries.refusal(frontend, queries.request_of(params_json=text)), InvalidInput)


def test_the_inference_protocol_passes_what_it_does_not_use_itself(frontend):
    request = infer_request(
        threshold=0.3,
        flag=True,
        count=7,
        name="x",
        priority=1,
        headers="h",
        binary_data_output=False,
        triton_enable_empty_final_response=True,
    )
    door = inference.door_of(frontend)
    for _ in range(2):
        # The second request may use a template.
        inference_call = inference.FakeCall(
            f"/{inference.SERVICE}/ModelInfer", request.SerializeToString(), 1e9, 0.0
        )
        door.model_infer(inference_call)
    frontend.loop.turn()
    assert sent(frontend) == ['{"count":7,"flag":true,"name":"x","threshold":0.3}'] * 2


def test_templates_keep_requests_with_other_parameters_apart(frontend):
    door = inference.door_of(frontend)
    for threshold in (0.1, 0.2, 0.1, 0.2):
        message = infer_request(threshold=threshold).SerializeToString()
        door.model_infer(inference.FakeCall(f"/{inference.SERVICE}/ModelInfer", message, 1e9, 0.0))
    frontend.loop.turn()
    assert sent(frontend) == ['{"threshold":0.1}', '{"threshold":0.2}'] * 2


async def test_rest_v2_takes_any_json():
    client = doors()
    body = {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}],
        "parameters": PARAMS | {"binary_data_output": False, "timeout": 1_000_000},
    }
    assert (await client.post("/v2/models/m/infer", body)).status_code == 200
    assert sent(client.frontend) == [TEXT]


async def test_rest_v2_takes_long_parameters_up_to_the_limit():
    client = doors()
    body = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}
    params = {"words": ["word"] * 4_000, "text": "é\n" * 3_000}
    response = await client.post("/v2/models/m/infer", body | {"parameters": params})
    assert response.status_code == 200, response.text
    assert json.loads(sent(client.frontend)[0]) == params
    for large in ({"text": "x" * 70_000}, {"list": [0] * 40_000}):
        response = await client.post("/v2/models/m/infer", body | {"parameters": large})
        assert response.status_code in (400, 413)


async def test_clipper_takes_params_for_all_inputs():
    client = doors()
    for inputs in ({"input": [1, 2, 3]}, {"input_batch": [[1, 2, 3], [4, 5, 6]]}):
        response = await client.post("/app/predict", inputs | {"params": PARAMS})
        assert response.status_code == 200, response.text
    assert sent(client.frontend) == [TEXT] * 3
    response = await client.post("/app/predict", {"input": [1, 2, 3], "params": [1]})
    assert "'params' must be a JSON object" in response.text


def test_a_version_that_takes_none_refuses_them_and_not_those_of_the_protocol():
    frontend = Frontend(served(), function=doubled)
    error = queries.refusal(frontend, queries.request_of(params_json='{"a":1}'))
    assert error.message == (
        "cannot pass parameters {\"a\":1} to 'm:1': its function takes none; deploy one with a "
        "keyword-only argument params, such as def predict(x, *, params), or send none"
    )
    assert isinstance(error, InvalidInput)
    assert inference.refusal(frontend, infer_request(threshold=0.1)).message == (
        error.message.replace('{"a":1}', '{"threshold":0.1}')
    )
    assert queries.ask(frontend, queries.request_of(params_json="{}")).error is None
    assert inference.infer(frontend, infer_request(headers="x", content_type="y")).model_name == "m"


def with_params(frontend: Frontend, params: str, **options):
    query = frontend.query(**options)
    query.params = params
    frontend.dispatcher.submit(query)
    return query


def test_batches_carry_parameters_only_if_a_query_has_some():
    frontend = Frontend(TAKING)
    frontend.submit()
    frontend.loop.turn()
    with_params(frontend, "")
    with_params(frontend, '{"a":1}')
    frontend.replica.answer()
    frontend.loop.turn()
    batches = [
        model_server_pb2.Batch.FromString(encode_batch(batch)) for batch in frontend.replica.sent
    ]
    assert [list(batch.params) for batch in batches] == [[], ["", '{"a":1}']]


def test_identical_inputs_with_other_parameters_are_computed():
    serving = ServingOptions(max_batch_size=8, cache_ttl_s=10.0)
    frontend = Frontend(replace(TAKING, serving=serving), cache=PredictionCache(1 << 20))
    # The first two are in one group, and the cache answers the last.
    for params in ('{"a":1}', '{"a":2}', '{"a":1}'):
        with_params(frontend, params)
    frontend.loop.turn()
    assert frontend.replica.sizes == [2]
    frontend.replica.answer()
    last = with_params(frontend, '{"a":2}')
    assert last in frontend.settled
    assert len(frontend.replica.sent) == 1


def test_the_parts_of_a_large_query_have_its_parameters():
    frontend = Frontend(TAKING)
    query = frontend.query(rows=20)
    query.params = TEXT
    assert {part.params for part in split_query(query, 8)} == {TEXT}
