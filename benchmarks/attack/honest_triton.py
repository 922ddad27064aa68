"""Honest callers with tritonclient, whose protobuf messages conflict with those of Skysail."""

import random
from queue import Queue
from typing import Any

import tritonclient.grpc
import tritonclient.http

from benchmarks.attack.cluster import Endpoints
from benchmarks.attack.models import Question, WrongAnswer, question

TIMEOUT_S = 10.0


def doors(endpoints: Endpoints) -> dict[str, Any]:
    """Return a caller for each door, each with its own connection."""
    return {
        "tritonclient gRPC": _ask_grpc(endpoints),
        "tritonclient stream": _ask_stream(endpoints),
        "tritonclient HTTP": _ask_http(endpoints),
    }


def _inputs(module: Any, asked: Question) -> list[Any]:
    inputs = []
    for name, array in asked.inputs.items():
        datatype = "BYTES" if array.dtype == object else "FP64"
        each = module.InferInput(name, list(array.shape), datatype)
        each.set_data_from_numpy(array)
        inputs.append(each)
    return inputs


def _check(asked: Question, result: Any) -> None:
    answer = result.as_numpy("output")
    if answer.dtype == object:
        for index, text in enumerate(answer.ravel()):
            answer.flat[index] = text.decode()
    asked.check(answer)


def _ask_grpc(endpoints: Endpoints) -> Any:
    client = tritonclient.grpc.InferenceServerClient(endpoints.grpc)

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        inputs = _inputs(tritonclient.grpc, asked)
        _check(asked, client.infer(asked.model, inputs, client_timeout=TIMEOUT_S))

    return ask


def _ask_stream(endpoints: Endpoints) -> Any:
    client = tritonclient.grpc.InferenceServerClient(endpoints.grpc)
    answers: Queue[Any] = Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        client.async_stream_infer(asked.model, _inputs(tritonclient.grpc, asked))
        result, error = answers.get(timeout=TIMEOUT_S)
        if error is not None:
            raise WrongAnswer(f"refused {asked}: {error}")
        _check(asked, result)

    return ask


def _ask_http(endpoints: Endpoints) -> Any:
    client = tritonclient.http.InferenceServerClient(endpoints.http, network_timeout=TIMEOUT_S)

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        _check(asked, client.infer(asked.model, _inputs(tritonclient.http, asked)))

    return ask
