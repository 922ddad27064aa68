"""Parameters of queries, which reach functions that ask for them."""

import json

import pytest

from skysail_common.call_style import CallStyle
from skysail_common.errors import Status
from skysail_common.tensors import Signature
from skysail_model_server.model import Model
from unit.model_server.execution.batches import OUT, X, answers, execution, make_batch, query


def run(function, params: list[str], **style) -> list:
    signature = Signature((X,), (OUT,))
    batch = make_batch(signature, [[query(number)] for number in range(3)])
    batch.params.extend(params)
    model = Model(function, CallStyle(takes_params=True, **style), signature)
    result = execution(model).run(batch)
    model.close()
    return answers(signature, batch, result)


def scaled(x, *, params):
    return x * params.get("scale", 10)


async def scaled_later(x, *, params):
    return scaled(x, params=params)


FIVE = json.dumps({"scale": 5})
SIX = json.dumps({"scale": 6})


@pytest.mark.parametrize(
    ("function", "style"),
    [
        (scaled, {}),
        (scaled, {"batch": False}),
        (scaled, {"batch": False, "max_concurrency": 2}),
        (scaled_later, {"is_async": True}),
        (scaled_later, {"is_async": True, "batch": False}),
    ],
)
@pytest.mark.parametrize(
    ("params", "scales"),
    [
        ([], [10, 10, 10]),
        ([FIVE, FIVE, FIVE], [5, 5, 5]),
        ([FIVE, SIX, ""], [5, 6, 10]),
        (["", FIVE, FIVE], [10, 5, 5]),
    ],
)
def test_each_query_gets_its_own_parameters(function, style, params, scales):
    found = run(function, params, **style)
    assert [each.tolist() for each in found] == [
        [[number * scale, 0]] for number, scale in enumerate(scales)
    ]


def test_consecutive_queries_with_equal_parameters_share_a_call():
    calls = []

    def function(x, *, params):
        calls.append((len(x), dict(params)))
        params.clear()
        return x

    run(function, [FIVE, FIVE, ""])
    assert calls == [(2, {"scale": 5}), (1, {})]


def test_a_failure_fails_the_query_with_its_parameters_alone():
    def function(x, *, params):
        return x * (1 if params["scale"] == 5 else 1 // 0)

    found = run(function, [FIVE, SIX, FIVE])
    assert found[0].tolist() == [[0, 0]]
    assert found[1].message.startswith("ZeroDivisionError")
    assert found[2].tolist() == [[2, 0]]


def test_parameters_of_too_few_queries_refuse_the_batch():
    found = run(scaled, [FIVE])
    assert {each.code for each in found} == {Status.INVALID_ARGUMENT}
    assert found[0].message == "the batch has 1 params, not 3"
