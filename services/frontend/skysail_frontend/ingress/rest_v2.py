"""Door: the REST form of the Open Inference Protocol, /v2/…, with JSON tensors."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skysail_common import __version__
from skysail_common.errors import InvalidInput, ModelNotFound, Unsupported
from skysail_common.tensors import DataType, Tensor, TensorSpec, from_numpy
from skysail_frontend.dispatch import Dispatcher
from skysail_frontend.ingress.grpc_inference import EXTENSIONS
from skysail_frontend.ingress.http import json_response, predict, read_json
from skysail_frontend.ingress.infer_parameters import check_tensor_parameters, request_timeout_s
from skysail_frontend.ingress.json_values import array_of_json, json_elements
from skysail_frontend.ingress.outputs import output_tensors
from skysail_frontend.ingress.targets import Target, find_model_target, make_query
from skysail_frontend.query import Prediction, Query, Settle
from skysail_frontend.routes import ServedVersion


class RestV2:
    """Serves the paths below /v2."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        server_name: str,
        max_body_bytes: int,
        is_ready: Callable[[], bool],
    ) -> None:
        self._dispatcher = dispatcher
        self._server_name = server_name
        self._max_body_bytes = max_body_bytes
        self._is_ready = is_ready

    def routes(self) -> list[BaseRoute]:
        """Return the paths and their handlers."""
        models = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        return [
            Route("/v2", self.server_metadata),
            Route("/v2/", self.server_metadata),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(path, self.model_metadata) for path in models),
            *(Route(f"{path}/ready", self.model_ready) for path in models),
            *(Route(f"{path}/infer", self.infer, methods=["POST"]) for path in models),
        ]

    async def server_metadata(self, request: Request) -> Response:
        """Tell what this server is."""
        return json_response(
            {"name": self._server_name, "version": __version__, "extensions": EXTENSIONS}
        )

    async def live(self, request: Request) -> Response:
        """Say that the server runs."""
        return json_response({"live": True})

    async def ready(self, request: Request) -> Response:
        """Say whether the server takes queries."""
        is_ready = self._is_ready()
        return json_response({"ready": is_ready}, 200 if is_ready else 400)

    async def model_metadata(self, request: Request) -> Response:
        """Tell what a model takes and gives."""
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
        """Say whether a model has a replica that takes batches."""
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
        if "inference-header-content-length" in request.headers:
            raise Unsupported("binary tensor data are not supported over HTTP; use gRPC or JSON")
        body = await read_json(request, self._max_body_bytes)
        if not isinstance(body, dict):
            raise InvalidInput("the body must be a JSON object with the member 'inputs'")
        target = self._target(request)
        parameters = _object(body, "parameters")
        query_id = body.get("id", "")
        if not isinstance(query_id, str):
            raise InvalidInput("'id' must be a string")
        tensors = _tensors(body)
        wanted = _wanted_outputs(body, target)

        def make(settle: Settle) -> Query:
            return make_query(
                self._dispatcher,
                target,
                tensors,
                settle,
                query_id=query_id,
                deadline=float("inf"),
                timeout_s=request_timeout_s(parameters),
                label=f"[request id: {query_id or '<id_unknown>'}] ",
            )

        query, prediction = await predict(self._dispatcher, make)
        if prediction.error is not None:
            raise prediction.error
        return json_response(_answer(query, prediction, wanted))


def _metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.name, "shape": spec.shape}


def _object(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = parent.get(name, {})
    if not isinstance(value, dict):
        raise InvalidInput(f"'{name}' must be a JSON object")
    return value


def _tensors(body: Mapping[str, Any]) -> list[Tensor]:
    inputs = body.get("inputs")
    if not isinstance(inputs, list):
        raise InvalidInput("'inputs' must be a JSON array of tensors")
    return [_tensor(each) for each in inputs]


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InvalidInput("each of 'inputs' must be a JSON object with the member 'name'")
    name = value["name"]
    check_tensor_parameters("input", name, _object(value, "parameters"))
    for member in ("datatype", "shape", "data"):
        if member not in value:
            raise InvalidInput(f"input '{name}' has no member '{member}'")
    shape = value["shape"]
    is_shape = isinstance(shape, list) and all(
        isinstance(size, int) and not isinstance(size, bool) for size in shape
    )
    if not is_shape or not isinstance(value["datatype"], str):
        raise InvalidInput(f"input '{name}' needs a shape of integers and a datatype")
    datatype = DataType.named(value["datatype"])
    if datatype is DataType.BF16:
        raise InvalidInput(f"input '{name}' of datatype BF16 cannot be sent as JSON")
    flat = array_of_json(name, value["data"], datatype).ravel()
    tensor = from_numpy(name, flat)
    # Whether the elements fill the shape is checked with all else.
    return Tensor(name, datatype, tuple(shape), tensor.data)


def _wanted_outputs(body: Mapping[str, Any], target: Target) -> frozenset[str]:
    outputs = body.get("outputs", [])
    if not isinstance(outputs, list) or not all(
        isinstance(each, dict) and isinstance(each.get("name"), str) for each in outputs
    ):
        raise InvalidInput("'outputs' must be a JSON array of objects with the member 'name'")
    for each in outputs:
        parameters = _object(each, "parameters")
        check_tensor_parameters("output", each["name"], parameters)
        if parameters.get("binary_data"):
            raise Unsupported("binary tensor data are not supported over HTTP; use gRPC or JSON")
    wanted = frozenset(each["name"] for each in outputs)
    if target.version is not None:
        known = {spec.name for spec in target.version.signature.outputs}
        for name in sorted(wanted - known):
            model = target.version.name.model_name
            raise InvalidInput(
                f"unexpected inference output '{name}' for model '{model}'; it gives "
                f"{', '.join(sorted(known))}"
            )
    return wanted


def _answer(query: Query, prediction: Prediction, wanted: frozenset[str]) -> dict[str, Any]:
    model_name, version = query.version.name if query.version else ("", "")
    answer: dict[str, Any] = {"model_name": model_name, "model_version": version}
    if query.query_id:
        answer["id"] = query.query_id
    answer["outputs"] = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype.name,
            "shape": tensor.shape,
            "data": json_elements(tensor).ravel().tolist(),
        }
        for tensor in output_tensors(query, prediction)
        if not wanted or tensor.name in wanted
    ]
    if prediction.is_default:
        answer["parameters"] = {
            "skysail_outcome": prediction.outcome.name,
            "skysail_explanation": prediction.explanation,
        }
    return answer
