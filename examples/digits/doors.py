"""The same images through every door: what each client has to write."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tritonclient.grpc.aio as triton
import urllib3

import skysail

CALLERS = 16
"""Images under way at once."""

Ask = Callable[[np.ndarray], Awaitable[int]]
"""Sends one image, float64 [64], and returns the predicted digit."""


@dataclass(frozen=True)
class Report:
    """What came through one door."""

    door: str
    accuracy: float
    p50_ms: float
    p99_ms: float


def sdk(client: skysail.AsyncClient) -> Ask:
    """The SDK, asking an application."""

    async def ask(image: np.ndarray) -> int:
        prediction = await client.predict("digits-app", image)
        assert not prediction.is_default, prediction.explanation
        return int(prediction.output)

    return ask


def open_inference_grpc(client: triton.InferenceServerClient) -> Ask:
    """Triton's own client, over gRPC."""

    async def ask(image: np.ndarray) -> int:
        tensor = triton.InferInput("X", [1, 64], "FP64")
        tensor.set_data_from_numpy(image[np.newaxis])
        result = await client.infer("digits", [tensor])
        return int(result.as_numpy("output")[0])

    return ask


def open_inference_rest(pool: urllib3.HTTPConnectionPool) -> Ask:
    """The REST form of the Open Inference Protocol."""

    def post(image: np.ndarray) -> int:
        tensor = {"name": "X", "datatype": "FP64", "shape": [1, 64], "data": image.tolist()}
        answer = pool.request("POST", "/v2/models/digits/infer", json={"inputs": [tensor]})
        assert answer.status == 200, answer.data
        return int(answer.json()["outputs"][0]["data"][0])

    return lambda image: asyncio.to_thread(post, image)


def clipper_rest(pool: urllib3.HTTPConnectionPool) -> Ask:
    """Plain JSON, as Clipper had it."""

    def post(image: np.ndarray) -> int:
        answer = pool.request("POST", "/digits-app/predict", json={"input": image.tolist()})
        assert answer.status == 200, answer.data
        body = answer.json()
        assert not body["default"], body["default_explanation"]
        return int(body["output"])

    return lambda image: asyncio.to_thread(post, image)


async def measure(door: str, ask: Ask, images: np.ndarray, labels: Sequence[int]) -> Report:
    """Send every image once and report accuracy and latency."""
    room = asyncio.Semaphore(CALLERS)
    latencies: list[float] = []

    async def one(image: np.ndarray) -> int:
        async with room:
            begin = time.perf_counter()
            digit = await ask(image)
            latencies.append(time.perf_counter() - begin)
            return digit

    await ask(images[0])
    digits = await asyncio.gather(*(one(image) for image in images))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return Report(door, float(np.mean(np.array(digits) == labels)), float(p50), float(p99))
