"""Door: POST /{application}/predict, as Clipper had it.

Two things differ on purpose: integers are accepted where an application takes doubles, and an
`input_batch` of one input is answered as a batch.
"""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skysail_common.errors import InvalidInput, SkysailError
from skysail_common.tensors import Tensor
from skysail_frontend.dispatch import Dispatcher
from skysail_frontend.ingress.answer_size import check_size, checked
from skysail_frontend.ingress.grpc_query import QueryIds
from skysail_frontend.ingress.http import (
    deadline_of,
    json_text,
    predict_all,
    read_json,
)
from skysail_frontend.ingress.json_values import json_elements, row_of_json
from skysail_frontend.ingress.outputs import output_tensors
from skysail_frontend.ingress.targets import Target, application_target, make_query
from skysail_frontend.query import Prediction, Query, Settle

_MAX_BATCH = 100_000


class RestClipper:
    """Serves POST /{application}/predict."""

    def __init__(self, dispatcher: Dispatcher, ids: QueryIds, max_bytes: int) -> None:
        self._dispatcher = dispatcher
        self._ids = ids
        self._max_bytes = max_bytes

    def routes(self) -> list[BaseRoute]:
        """Return the paths and their handlers."""
        return [
            Route("/{application}/predict", self.predict, methods=["POST"]),
            Route("/{application}/predict/", self.predict, methods=["POST"]),
        ]

    async def predict(self, request: Request) -> Response:
        """Answer the query, or each query of the batch, in the body."""
        with self._dispatcher.statistics.refusals:
            makes, is_batch = await self._makes(request)
        found = await predict_all(request, self._dispatcher, makes)
        if len(found) == 1 and (error := found[0][1].error) is not None:
            raise error
        # Before it is written as JSON, which would keep all others waiting.
        size = sum(len(data) for _, prediction in found for data in prediction.outputs)
        check_size(size, self._max_bytes)
        answers = [self._answer(query, prediction) for query, prediction in found]
        text = json_text({"batch_predictions": answers} if is_batch else answers[0])
        return Response(checked(text, self._max_bytes), media_type="application/json")

    async def _makes(self, request: Request) -> tuple[list[Callable[[Settle], Query]], bool]:
        """Return what makes each query of a request, and whether they are a batch.

        All is converted before any is asked: a bad input refuses the whole request.
        """
        application = self._dispatcher.table.application(request.path_params["application"])
        body = await read_json(request, self._max_bytes)
        if not isinstance(body, dict) or ("input" in body) == ("input_batch" in body):
            raise InvalidInput(
                "JSON object does not have required keys input or input_batch: give one of them"
            )
        version = body.get("version", "")
        if not isinstance(version, str):
            raise InvalidInput("'version' must be a string")
        is_batch = "input_batch" in body
        values = body["input_batch"] if is_batch else [body["input"]]
        if not isinstance(values, list) or not 1 <= len(values) <= _MAX_BATCH:
            raise InvalidInput(f"'input_batch' must be a JSON array of 1 to {_MAX_BATCH} inputs")
        deadline = deadline_of(request, self._dispatcher.clock())

        def make_of(value: Any) -> Callable[[Settle], Query]:
            target = application_target(self._dispatcher.table, application, version)
            row = _row(target, value)
            return lambda settle: make_query(
                self._dispatcher, target, row, settle, deadline=deadline
            )

        return [make_of(value) for value in values], is_batch

    def _answer(self, query: Query, prediction: Prediction) -> dict[str, Any]:
        answer: dict[str, Any] = {"query_id": self._ids.next_number()}
        if prediction.error is not None:
            # In its place in the batch: the others have their answers.
            return answer | clipper_error(prediction.error)
        answer["output"] = _output(query, prediction)
        answer["default"] = prediction.is_default
        if prediction.is_default:
            answer["default_explanation"] = prediction.explanation
        return answer


def _row(target: Target, value: Any) -> list[Tensor]:
    """Return the tensors, of one row each, in a JSON input."""
    if target.version is None:
        return []
    specs = target.version.signature.inputs
    if len(specs) == 1 and not isinstance(value, Mapping):
        return [row_of_json(specs[0], value)]
    if not isinstance(value, Mapping):
        names = ", ".join(spec.name for spec in specs)
        raise InvalidInput(f"the input must be a JSON object with {names}")
    by_name = {spec.name: spec for spec in specs}
    unknown = sorted(set(value) - set(by_name))
    if unknown:
        raise InvalidInput(f"the model has no input {unknown[0]!r}; it takes {', '.join(by_name)}")
    return [row_of_json(by_name[name], each) for name, each in value.items()]


def _output(query: Query, prediction: Prediction) -> Any:
    if prediction.is_default:
        assert query.application is not None
        return query.application.default_output
    values = {tensor.name: json_elements(tensor)[0] for tensor in output_tensors(query, prediction)}
    return next(iter(values.values())) if len(values) == 1 else values


def clipper_error(error: SkysailError) -> dict[str, str]:
    """Return the body of an error as Clipper's clients know it."""
    is_json = isinstance(error, InvalidInput) and "JSON" in error.message
    return {
        "error": "Json error" if is_json else "Query processing error",
        "cause": error.message,
    }
