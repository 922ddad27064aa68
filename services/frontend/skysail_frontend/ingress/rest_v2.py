"""Door: the REST form of the Open Inference Protocol, /v2/…, with tensors as JSON or as bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skysail_common import __version__
from skysail_common.errors import InvalidInput, ModelNotFound
from skysail_common.tensors import Tensor, TensorSpec
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import Prediction, Query, Settle
from skysail_frontend.core.routes import ServedVersion
from skysail_frontend.ingress.answer_size import check_size, checked
from skysail_frontend.ingress.binary_tensors import (
    JSON_LENGTH_HEADER,
    JSON_LENGTH_KEY,
    BinaryBody,
    raw_tensor,
)
from skysail_frontend.ingress.grpc_inference import EXTENSIONS
from skysail_frontend.ingress.http import (
    arrival_of,
    deadline_of,
    json_response,
    predict,
)
from skysail_frontend.ingress.http_bodies import headers_of, read_body
from skysail_frontend.ingress.http_limits import HttpMemory, MemoryReservation
from skysail_frontend.ingress.infer_inputs import InferInputs, json_member, json_object
from skysail_frontend.ingress.infer_parameters import (
    RequestOptions,
    check_tensor_parameters,
    request_options,
)
from skysail_frontend.ingress.json_answers import elements_text, json_text
from skysail_frontend.ingress.outputs import output_tensors
from skysail_frontend.ingress.targets import Target, find_model_target, make_query
from skysail_frontend.ingress.time_slice import TimeSlice, join
from skysail_frontend.ingress.triton_errors import triton_error

_EXTENSIONS = ("binary_tensor_data", *EXTENSIONS)


@dataclass(frozen=True)
class _InferRequest:
    """A parsed request."""

    target: Target
    tensors: list[Tensor]
    query_id: str = ""
    options: RequestOptions = field(default_factory=RequestOptions)
    wanted: Mapping[str, bool] = field(default_factory=dict)
    """Wanted outputs, and whether each is binary; all outputs if empty."""
    is_binary: bool = True
    """Whether outputs are binary by default."""


class RestV2:
    """The handlers of the paths below /v2."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        server_name: str,
        max_bytes: int,
        is_ready: Callable[[], bool],
        memory: HttpMemory,
        *,
        has_triton_errors: bool = False,
    ) -> None:
        self._dispatcher = dispatcher
        self._server_name = server_name
        self._max_bytes = max_bytes
        self._is_ready = is_ready
        self._memory = memory
        self._has_triton_errors = has_triton_errors

    def routes(self) -> list[BaseRoute]:
        """Return the paths and their handlers."""
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        return [
            # Starlette takes the first match, so that the most frequent path comes first.
            *(Route(f"{path}/infer", self.infer, methods=["POST"]) for path in models),
            Route("/v2", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(path, self.model_metadata) for path in models),
            *(Route(f"{path}/ready", self.model_ready) for path in models),
        ]

    async def server_metadata(self, request: Request) -> Response:
        """Answer with the name, version and extensions of the server."""
        return json_response(
            {"name": self._server_name, "version": __version__, "extensions": _EXTENSIONS}
        )

    async def live(self, request: Request) -> Response:
        """Answer that the server is live."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """Answer whether the server accepts queries."""
        is_ready = self._is_ready()
        return json_response({"ready": is_ready}, 200 if is_ready else 400)

    async def model_metadata(self, request: Request) -> Response:
        """Answer with the inputs, outputs and versions of a model."""
        version = self._version(request)
        versions = self._dispatcher.table.versions_of(version.name.model_name)
        return json_response(
            {
                "name": request.path_params["model"],
                "versions": [each.name.version for each in versions],
                "platform": "python",
                "inputs": [_metadata(spec) for spec in version.signature.inputs],
                "outputs": [_metadata(spec) for spec in version.signature.outputs],
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Answer whether a model has a ready replica."""
        version = self._version(request)
        is_ready = self._dispatcher.is_ready(version.name)
        return json_response(
            {"name": request.path_params["model"], "ready": is_ready}, 200 if is_ready else 400
        )

    def _target(self, request: Request) -> Target:
        path = request.path_params
        return find_model_target(self._dispatcher.table, path["model"], path.get("version", ""))

    def _version(self, request: Request) -> ServedVersion:
        version = self._target(request).version
        if version is None:
            name = request.path_params["model"]
            raise ModelNotFound(f"Request for unknown model: '{name}' has no available versions")
        return version

    async def infer(self, request: Request) -> Response:
        """Answer one query."""
        with self._memory.request() as reservation:
            return await self._infer(request, reservation)

    async def _infer(self, request: Request, reservation: MemoryReservation) -> Response:
        time_slice = TimeSlice(self._dispatcher.clock)
        with self._dispatcher.statistics.refusals:
            arrival = arrival_of(request, self._dispatcher)
            headers = headers_of(request)
            deadline = deadline_of(headers, arrival)
            content = await read_body(request, headers, self._max_bytes, reservation)
            body = BinaryBody(content, headers.get(JSON_LENGTH_KEY))
            target = self._target(request)
            if body.is_raw:
                parsed = _raw(body, target)
            else:
                parsed = await self._parse(body, target, time_slice)

        def make(settle: Settle) -> Query:
            return make_query(
                self._dispatcher,
                parsed.target,
                parsed.tensors,
                settle,
                arrival=arrival,
                query_id=parsed.query_id,
                deadline=deadline,
                timeout_s=parsed.options.timeout_s,
                priority=parsed.options.priority,
                params=parsed.options.params,
                label=f"[request id: {parsed.query_id or '<id_unknown>'}] ",
            )

        query, prediction = await predict(request, self._dispatcher, make)
        error = prediction.error
        if error is not None:
            raise triton_error(query.query_id, error) if self._has_triton_errors else error
        return await _answer(query, prediction, parsed, self._max_bytes, time_slice)

    async def _parse(
        self, body: BinaryBody, target: Target, time_slice: TimeSlice
    ) -> _InferRequest:
        inputs = InferInputs(self._dispatcher, target, body, self._max_bytes, time_slice)
        value = await inputs.parse()
        if not isinstance(value, dict):
            raise InvalidInput("the body must be a JSON object with the member 'inputs'")
        parameters = json_object(value, "parameters")
        query_id = json_member(value, "id", "")
        if not isinstance(query_id, str):
            raise InvalidInput("'id' must be a string")
        tensors = await inputs.tensors(value)
        is_binary = _flag(parameters, "binary_data_output", default=False)
        wanted = _wanted_outputs(value, target, is_binary)
        options = request_options(parameters)
        return _InferRequest(target, tensors, query_id, options, wanted, is_binary)


def _raw(body: BinaryBody, target: Target) -> _InferRequest:
    tensors = [raw_tensor(target.version, body.content)] if target.version is not None else []
    return _InferRequest(target, tensors)


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = json_member(parameters, name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"invalid value type for '{name}' parameter, expected bool_param.")
    return value


def _wanted_outputs(body: Mapping[str, Any], target: Target, is_binary: bool) -> dict[str, bool]:
    outputs = json_member(body, "outputs", [])
    if not isinstance(outputs, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in outputs
    ):
        raise InvalidInput("'outputs' must be a JSON array of objects with the member 'name'")
    wanted: dict[str, bool] = {}
    for each in outputs:
        parameters = json_object(each, "parameters")
        check_tensor_parameters("output", each["name"], parameters)
        wanted[each["name"]] = _flag(parameters, "binary_data", default=is_binary)
    if target.version is not None:
        known = {spec.name for spec in target.version.signature.outputs}
        for name in sorted(wanted.keys() - known):
            model = target.version.name.model_name
            raise InvalidInput(
                f"unexpected inference output '{name}' for model '{model}'; it gives "
                f"{', '.join(sorted(known))}"
            )
    return wanted


async def _answer(
    query: Query,
    prediction: Prediction,
    parsed: _InferRequest,
    max_bytes: int,
    time_slice: TimeSlice,
) -> Response:
    model_name, version = query.version.name if query.version else ("", "")
    answer: dict[str, Any] = {"model_name": model_name, "model_version": version}
    if query.query_id:
        answer["id"] = query.query_id
    if prediction.is_default:
        answer["parameters"] = {
            "skysail_outcome": prediction.outcome.name,
            "skysail_explanation": prediction.explanation,
        }
    tensors = [
        tensor
        for tensor in output_tensors(query, prediction)
        if not parsed.wanted or tensor.name in parsed.wanted
    ]
    # The check comes before the conversion to JSON, which would delay other requests.
    check_size(sum(len(tensor.data) for tensor in tensors), max_bytes)
    parts = [json_text(answer)[:-1], b',"outputs":[']
    binary: list[bytes] = []
    for index, tensor in enumerate(tensors):
        if index:
            parts.append(b",")
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype.name,
            "shape": tensor.shape,
        }
        if parsed.wanted.get(tensor.name, parsed.is_binary):
            output["parameters"] = {"binary_data_size": len(tensor.data)}
            binary.append(tensor.data)
            parts.append(json_text(output))
        else:
            data = await elements_text(tensor, time_slice)
            parts += (json_text(output)[:-1], b',"data":', data, b"}")
    parts.append(b"]}")
    json_length = sum(map(len, parts))
    body = checked(await join(parts + binary), max_bytes)
    if not binary:
        return Response(body, media_type="application/json")
    headers = {JSON_LENGTH_HEADER: str(json_length)}
    return Response(body, 200, headers, "application/octet-stream")
