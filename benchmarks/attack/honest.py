"""Honest callers at every door, which compare each answer with the result of the model."""

import http.client
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np

import skysail
from benchmarks.attack.cluster import Endpoints
from benchmarks.attack.models import APPLICATION, Array, Question, WrongAnswer, linear, question
from benchmarks.attack.protobuf_structures import INFER, PREDICT, STREAM
from benchmarks.attack.sending import Once
from skysail.predictions import prediction_from_proto
from skysail.query_inputs import read_inputs
from skysail_common.tensors import from_numpy
from skysail_protos.inference import grpc_service_pb2 as oip
from skysail_protos.v1 import query_pb2

TIMEOUT_S = 10.0

Ask = Callable[[random.Random], None]
"""Sends one question; raises WrongAnswer or the error of the client."""


def doors(endpoints: Endpoints) -> dict[str, Ask]:
    """Return a caller for each door, each with its own connection."""
    return {
        "ModelInfer": _ask_infer(endpoints),
        "ModelStreamInfer": _ask_infer_stream(endpoints),
        "Predict": _ask_predict(endpoints),
        "PredictStream": _ask_sdk(endpoints),
        "V2 JSON": _ask_v2(endpoints, is_binary=False),
        "V2 binary": _ask_v2(endpoints, is_binary=True),
        "Clipper": _ask_clipper(endpoints),
    }


def _channel(endpoints: Endpoints) -> Any:
    return grpc.insecure_channel(endpoints.grpc, [("grpc.use_local_subchannel_pool", 1)])


def infer_request(rng: random.Random, asked: Question) -> oip.ModelInferRequest:
    """Return a request for a question, in one of many equivalent forms."""
    request = oip.ModelInferRequest(model_name=asked.model, id=rng.choice(["", "7", "é" * 9]))
    is_raw = rng.random() < 0.5
    for name, array in asked.inputs.items():
        tensor = from_numpy(name, array)
        each = request.inputs.add(name=name, datatype=tensor.datatype.name, shape=array.shape)
        if is_raw:
            request.raw_input_contents.append(tensor.data)
        elif array.dtype == object:
            each.contents.bytes_contents.extend(text.encode() for text in array.ravel())
        else:
            each.contents.fp64_contents.extend(array.ravel())
    if rng.random() < 0.3:
        request.outputs.add(name="output")
    if rng.random() < 0.3:
        request.parameters["priority"].uint64_param = rng.randrange(1, 9)
    return request


def _check_infer(asked: Question, request: oip.ModelInferRequest, answer: Any) -> None:
    if answer.id != request.id or answer.model_name != asked.model:
        raise WrongAnswer(f"asked {request}, got {answer}")
    (output,), (data,) = answer.outputs, answer.raw_output_contents
    asked.check(_elements(output.datatype, output.shape, data))


def _elements(datatype: str, shape: Any, data: bytes) -> Array:
    if datatype == "FP64":
        numbers: Array = np.frombuffer(data, "<f8").reshape(shape)
        return numbers
    texts = np.empty(tuple(shape), dtype=object)
    at = 0
    for index in range(texts.size):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        texts.flat[index] = data[at + 4 : end].decode()
        at = end
    return texts


def _ask_infer(endpoints: Endpoints) -> Ask:
    method = _channel(endpoints).unary_unary(INFER)

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        request = infer_request(rng, asked)
        answer = method(request.SerializeToString(), timeout=TIMEOUT_S)
        _check_infer(asked, request, oip.ModelInferResponse.FromString(answer))

    return ask


def _ask_infer_stream(endpoints: Endpoints) -> Ask:
    method = _channel(endpoints).stream_stream(STREAM)
    requests = Once()
    answers: Iterator[bytes] = method(requests)

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        request = infer_request(rng, asked)
        requests.put(request.SerializeToString())
        answer = oip.ModelStreamInferResponse.FromString(next(answers))
        if answer.error_message:
            raise WrongAnswer(f"refused {asked}: {answer.error_message}")
        _check_infer(asked, request, answer.infer_response)

    return ask


def _row(asked: Question) -> dict[str, Any]:
    """Return the first row of a question as an input of the SDK."""
    return {name: array[0] for name, array in asked.inputs.items()}


def _ask_predict(endpoints: Endpoints) -> Ask:
    method = _channel(endpoints).unary_unary(PREDICT)

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        request = query_pb2.PredictRequest(
            target=asked.model, inputs=read_inputs(_row(asked)).tensors
        )
        answer = method(request.SerializeToString(), timeout=TIMEOUT_S)
        prediction = prediction_from_proto(query_pb2.PredictResponse.FromString(answer))
        _check_row(asked, prediction.output)

    return ask


def _check_row(asked: Question, output: Any) -> None:
    given = np.array(output, dtype=asked.answer.dtype)
    Question(asked.model, asked.inputs, np.array(asked.answer[0])).check(given)


def _ask_sdk(endpoints: Endpoints) -> Ask:
    client = skysail.Client(endpoints.grpc, query_endpoint=endpoints.grpc, timeout_s=TIMEOUT_S)

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        target = APPLICATION if asked.model == "linear" else asked.model
        _check_row(asked, client.predict(target, _row(asked)).output)

    return ask


class _Http:
    """One HTTP connection, reopened after an error."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._connection = http.client.HTTPConnection(endpoints.http, timeout=TIMEOUT_S)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, Any]:
        """Send a request and return body and headers of a successful response."""
        try:
            self._connection.request("POST", path, body, headers)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        if answer.status != 200:
            raise WrongAnswer(f"HTTP {answer.status}: {content[:300]!r}")
        return content, answer.headers


_JSON_LENGTH = "Inference-Header-Content-Length"


def _ask_v2(endpoints: Endpoints, *, is_binary: bool) -> Ask:
    connection = _Http(endpoints)

    def ask(rng: random.Random) -> None:
        asked = question(rng)
        inputs, blocks = [], []
        for name, array in asked.inputs.items():
            tensor = from_numpy(name, array)
            each: dict[str, Any] = {
                "name": name,
                "datatype": tensor.datatype.name,
                "shape": array.shape,
            }
            if is_binary:
                each["parameters"] = {"binary_data_size": len(tensor.data)}
                blocks.append(tensor.data)
            else:
                each["data"] = (array if rng.random() < 0.5 else array.ravel()).tolist()
            inputs.append(each)
        value = {"id": "7", "inputs": inputs, "parameters": {"binary_data_output": is_binary}}
        text = json.dumps(value).encode()
        headers = {_JSON_LENGTH: str(len(text))} if is_binary else {}
        path = f"/v2/models/{asked.model}/infer"
        content, told = connection.post(path, text + b"".join(blocks), headers)
        length = int(told.get(_JSON_LENGTH, len(content)))
        answer = json.loads(content[:length])
        (output,) = answer["outputs"]
        if is_binary:
            asked.check(_elements(output["datatype"], output["shape"], content[length:]))
        else:
            data = np.array(output["data"], dtype=asked.answer.dtype)
            asked.check(data.reshape(output["shape"]))

    return ask


def _ask_clipper(endpoints: Endpoints) -> Ask:
    connection = _Http(endpoints)

    def ask(rng: random.Random) -> None:
        rows = [[rng.randrange(-999, 999) for _ in range(3)] for _ in range(rng.randrange(1, 5))]
        body = {"input": rows[0]} if len(rows) == 1 else {"input_batch": rows}
        path = f"/{APPLICATION}/predict"
        answer = json.loads(connection.post(path, json.dumps(body).encode(), {})[0])
        answers = answer.get("batch_predictions", [answer])
        for row, each in zip(rows, answers, strict=True):
            if each.get("default") is not False or each["output"] != linear(np.array(row)).tolist():
                raise WrongAnswer(f"{row}: {each}")

    return ask
