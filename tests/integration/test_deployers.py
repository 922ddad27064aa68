"""A script of Clipper, with its functions and its REST interface."""

import httpx

from skysail.deployers import python, pytorch


def total(inputs):
    return [str(sum(each)) for each in inputs]


def through(model, inputs):
    return [float(each) for each in model([row.sum() for row in inputs])]


class Doubling:
    """A module without torch."""

    def parameters(self):
        return []

    def __call__(self, values):
        return [2 * each for each in values]


for each in (total, through, Doubling):
    each.__module__ = "__main__"


def test_an_endpoint_answers_as_clippers_did(cluster, client):
    python.create_endpoint(client, "clipper-sum", "doubles", total, slo_micros=9_000_000)
    url = f"http://{cluster.http}/clipper-sum/predict"
    found = httpx.post(url, json={"input": [1.0, 2.5]}, timeout=20).json()
    assert (found["output"], found["default"]) == ("3.5", False)
    found = httpx.post(url, json={"input_batch": [[1.0], [2.0]]}, timeout=20).json()
    assert [each["output"] for each in found["batch_predictions"]] == ["1.0", "2.0"]


def test_a_function_gets_its_model(client):
    pytorch.create_endpoint(
        client, "clipper-net", "doubles", through, Doubling(), slo_micros=9_000_000
    )
    assert client.predict("clipper-net", [1.0, 2.0]).output == 6.0
