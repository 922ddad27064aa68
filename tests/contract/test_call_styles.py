"""Every way of calls in a real model server, on each transport."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from skysail.artifact.build import build_artifact
from skysail_common.tensors import Array
from skysail_protos.v1 import model_server_pb2 as pb
from skysail_testing.model_servers import Results, running_model_server

# The classes are pickled by value, because a model server has no tests.
__name__, __package__ = "__main__", None


class Scaled:
    """A model that refuses 666, and notes its end in its work directory."""

    def __init__(self, closed):
        self.closed = closed

    def predict(self, x, *, params):
        if (x == 666).any():
            raise ValueError("666 is not welcome")
        return x * params.get("factor", 2)

    def close(self):
        self.closed.write_text("closed")


class ScaledLater(Scaled):
    async def load(self, context):
        self.loop = asyncio.get_running_loop()

    async def predict(self, x, *, params):
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0.3 if (x == 7).any() else 0.0)
        return Scaled.predict(self, x, params=params)

    async def close(self):
        assert asyncio.get_running_loop() is self.loop
        Scaled.close(self)


STYLES = pytest.mark.parametrize(
    ("source", "style"),
    [
        (Scaled, {}),
        (Scaled, {"batch": False}),
        (Scaled, {"batch": False, "max_concurrency": 3}),
        (ScaledLater, {}),
        (ScaledLater, {"batch": False}),
        (ScaledLater, {"batch": False, "max_concurrency": 2}),
    ],
    ids=["batch", "row", "threads", "async", "async row", "async row 2"],
)


def batch_of(number: int, rows: list[int], values: list[float], factors: list[int]) -> bytes:
    """Return the message of queries with these rows of one number, with a parameter each."""
    params = [json.dumps({"factor": factor}) if factor else "" for factor in factors]
    message = pb.Batch(
        id=number, rows=rows, inputs=[np.array(values, "<f8").tobytes()], params=params
    )
    return message.SerializeToString()


def values(result: pb.BatchResult) -> Array:
    return np.frombuffer(result.outputs[0])


@pytest.mark.parametrize("name", ["grpc", "native"])
@STYLES
async def test_queries_with_errors_and_parameters(name, source, style, tmp_path: Path):
    example = 1.0 if "batch" in style else [1.0]
    closed = tmp_path / "closed"
    artifact = build_artifact(source(closed), example=example, **style)
    async with running_model_server(artifact, name, tmp_path) as server:
        results = Results()
        link = await server.connect(results)
        link.send(batch_of(1, [1, 2, 1, 1], [1, 2, 3, 666, 4], [0, 0, 5, 5]))
        result = await results.next()
        assert values(result).tolist() == [2, 4, 6, 20]
        (error,) = result.errors
        assert error.index == 2
        assert error.message.startswith("ValueError: 666 is not welcome (in predict, ")
        # The longest call of a batch determines its end; the next batch follows.
        link.send(batch_of(2, [1, 1], [7, 8], []))
        link.send(batch_of(3, [1], [7], [3]))
        assert values(await results.next()).tolist() == [14, 16]
        assert values(await results.next()).tolist() == [21]
        assert await asyncio.to_thread(server.service.stop) == 0
    assert closed.read_text() == "closed"
    assert "Traceback" not in server.service.errors.partition("draining")[2]
