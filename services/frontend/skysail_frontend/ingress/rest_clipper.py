"""Door: POST /{application}/predict, the API of Clipper.

Two details differ on purpose: an application of doubles accepts integers, and an `input_batch` of one
input gets a batch as answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from skysail_common.errors import InvalidInput, SkysailError, shown
from skysail_common.frames.nulls import mask_name
from skysail_common.tensors import Content, DataType, Tensor, TensorSpec
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import Prediction, Query, Settle
from skysail_frontend.core.routes import Application
from skysail_frontend.core.validation import names_of
from skysail_frontend.ingress.answer_size import check_size, checked
from skysail_frontend.ingress.function_params import function_params
from skysail_frontend.ingress.grpc_query import QueryIds
from skysail_frontend.ingress.http import (
    arrival_of,
    deadline_of,
    predict_all,
)
from skysail_frontend.ingress.http_bodies import headers_of, read_body
from skysail_frontend.ingress.http_limits import HttpMemory, MemoryReservation
from skysail_frontend.ingress.infer_inputs import json_member, json_object
from skysail_frontend.ingress.json_answers import json_text, row_text
from skysail_frontend.ingress.json_values import null_row, row_of_json
from skysail_frontend.ingress.long_json import (
    LongArray,
    elements_of,
    parse_json,
    tensor_of_json,
    text_of_json,
)
from skysail_frontend.ingress.long_texts import LongText, decoded, element_of
from skysail_frontend.ingress.outputs import output_tensors
from skysail_frontend.ingress.targets import Target, application_target, make_query
from skysail_frontend.ingress.time_slice import TimeSlice, free, join

_MAX_BATCH = 10_000
"""Largest number of inputs of a batch without a model that limits it."""


class RestClipper:
    """The handler of POST /{application}/predict."""

    def __init__(
        self, dispatcher: Dispatcher, ids: QueryIds, max_bytes: int, memory: HttpMemory
    ) -> None:
        self._dispatcher = dispatcher
        self._ids = ids
        self._max_bytes = max_bytes
        self._memory = memory

    def routes(self) -> list[BaseRoute]:
        """Return the paths and their handlers."""
        return [Route("/{application}/predict", self.predict, methods=["POST"])]

    async def predict(self, request: Request) -> Response:
        """Answer the query, or each query of the batch, in the body."""
        with self._memory.request() as reservation:
            return await self._predict(request, reservation)

    async def _predict(self, request: Request, reservation: MemoryReservation) -> Response:
        time_slice = TimeSlice(self._dispatcher.clock)
        makes: list[Callable[[Settle], Query]] = []
        try:
            with self._dispatcher.statistics.refusals:
                is_batch = await self._fill(makes, request, reservation, time_slice)
            found = await predict_all(request, self._dispatcher, makes)
        finally:
            await free(makes, time_slice)
        if len(found) == 1 and (error := found[0][1].error) is not None:
            raise error
        # The check comes before the conversion to JSON, which would delay other requests.
        size = sum(len(data) for _, prediction in found for data in prediction.outputs)
        check_size(size, self._max_bytes)
        answers = []
        found.reverse()
        while found:
            # The list is emptied one by one (see `free`).
            query, prediction = found.pop()
            answers.append(await self._answer(query, prediction, time_slice))
            await time_slice.yield_if_over()
        text = answers[0]
        if is_batch:
            text = await join([b'{"batch_predictions":[', await join(answers, b","), b"]}"])
        return Response(checked(text, self._max_bytes), media_type="application/json")

    async def _fill(
        self,
        makes: list[Callable[[Settle], Query]],
        request: Request,
        reservation: MemoryReservation,
        time_slice: TimeSlice,
    ) -> bool:
        """Fill the list of functions that make the queries; return whether they are a batch.

        All inputs are converted before the first query, because a wrong input refuses the whole
        request.
        """
        arrival = arrival_of(request, self._dispatcher)
        headers = headers_of(request)
        deadline = deadline_of(headers, arrival)
        application = self._dispatcher.table.application(request.path_params["application"])
        content = await read_body(request, headers, self._max_bytes, reservation)
        body = await parse_json(content, time_slice)
        if not isinstance(body, dict) or not ("input" in body or "input_batch" in body):
            raise InvalidInput(
                "JSON object does not have required keys input or input_batch: give one of them"
            )
        if "input" in body and "input_batch" in body:
            raise InvalidInput("JSON object has both keys input and input_batch: give one of them")
        version = json_member(body, "version", "")
        if not isinstance(version, str):
            raise InvalidInput("'version' must be a string")
        params = function_params(json_object(body, "params"))
        is_batch = "input_batch" in body
        values = body["input_batch"] if is_batch else [body["input"]]
        target = application_target(self._dispatcher.table, application, version)
        most = _MAX_BATCH
        if target.version is not None:
            most = self._dispatcher.max_query_rows(target.version)
        wrong_batch = InvalidInput(
            f"'input_batch' must be a JSON array of 1 to {most} inputs; send more in several "
            "requests"
        )
        if not isinstance(values, (list, LongArray)):
            raise wrong_batch
        async for value in elements_of(values, time_slice):
            if len(makes) == most:
                raise wrong_batch
            label = f"input_batch[{len(makes)}]: " if is_batch else ""
            try:
                make = await self._make(
                    application, version, value, params, arrival, deadline, time_slice, label
                )
            except InvalidInput as error:
                raise InvalidInput(f"{label}{error.message}") from error
            makes.append(make)
            await time_slice.yield_if_over()
        if not makes:
            raise wrong_batch
        return is_batch

    async def _make(
        self,
        application: Application,
        version: str,
        value: Any,
        params: str,
        arrival: float,
        deadline: float,
        time_slice: TimeSlice,
        label: str,
    ) -> Callable[[Settle], Query]:
        # Each query chooses its target, because an application may have several routes by weight.
        target = application_target(self._dispatcher.table, application, version)
        row = await _row(target, value, self._max_bytes, time_slice)
        return lambda settle: make_query(
            self._dispatcher,
            target,
            row,
            settle,
            deadline=deadline,
            arrival=arrival,
            params=params,
            label=label,
        )

    async def _answer(self, query: Query, prediction: Prediction, time_slice: TimeSlice) -> bytes:
        answer: dict[str, Any] = {"query_id": self._ids.next_number()}
        if prediction.error is not None:
            # The error takes the place of the answer in the batch, and the other answers stay.
            return json_text(answer | clipper_error(prediction.error))
        answer["default"] = prediction.is_default
        if prediction.is_default:
            answer["default_explanation"] = prediction.explanation
        output = await _output(query, prediction, time_slice)
        return await join([json_text(answer)[:-1], b',"output":', output, b"}"])


async def _row(target: Target, value: Any, max_bytes: int, time_slice: TimeSlice) -> list[Tensor]:
    """Return the tensors of a JSON input, with one row each."""
    if target.version is None:
        return []
    specs = target.version.signature.inputs
    is_value = len(specs) == 1 and specs[0].content is Content.JSON_OR_TEXT
    if is_value or (len(specs) == 1 and not isinstance(value, Mapping)):
        return [await _row_of(specs[0], value, max_bytes, time_slice)]
    if not isinstance(value, Mapping):
        raise InvalidInput(f"the input must be a JSON object with {names_of(specs)}")
    by_name = {spec.name: spec for spec in specs}
    unknown = sorted(set(value) - set(by_name))
    if unknown:
        raise InvalidInput(
            f"the model has no input {shown(unknown[0])!r}; it takes {names_of(specs)}"
        )
    return [
        null_row(name)
        if each is None and mask_name(name) in by_name
        else await _row_of(by_name[name], each, max_bytes, time_slice)
        for name, each in value.items()
    ]


async def _row_of(spec: TensorSpec, value: Any, max_bytes: int, time_slice: TimeSlice) -> Tensor:
    if spec.content is Content.JSON_OR_TEXT and not isinstance(value, (str, LongText)):
        return row_of_json(spec, text_of_json(value))
    if isinstance(value, LongText) and spec.datatype is DataType.BYTES:
        is_text = spec.content is not Content.BINARY
        parts = await (
            value.parts(time_slice) if is_text else decoded(spec.name, value, time_slice)
        )
        return Tensor(spec.name, spec.datatype, (1,), await element_of(parts), spec.content)
    if not isinstance(value, LongArray):
        return row_of_json(spec, value)
    if spec.datatype is DataType.BF16 or spec.content is Content.BINARY:
        # The error is the same as for a short array.
        return row_of_json(spec, [])
    most = prod(size for size in spec.shape[1:] if size > 0)
    if spec.variable_axes:
        most = max_bytes // max(1, spec.datatype.element_bytes)
    tensor = await tensor_of_json(spec.name, value, spec.datatype, most, time_slice)
    return replace(tensor, shape=(1, *tensor.shape))


async def _output(query: Query, prediction: Prediction, time_slice: TimeSlice) -> bytes:
    if prediction.is_default:
        assert query.application is not None
        return json_text(query.application.default_output)
    tensors = output_tensors(query, prediction)
    nulls = {
        each.name for each in tensors if each.content is Content.NULL_MASK and each.data != b"\0"
    }
    texts = [
        (each.name, b"null" if mask_name(each.name) in nulls else await row_text(each, time_slice))
        for each in tensors
        if each.content is not Content.NULL_MASK
    ]
    if len(texts) == 1:
        return texts[0][1]
    return b"{%b}" % b",".join(b"%b:%b" % (json_text(name), text) for name, text in texts)


def clipper_error(error: SkysailError) -> dict[str, str]:
    """Return the body of an error in Clipper's form."""
    is_json = isinstance(error, InvalidInput) and "JSON" in error.message
    return {
        "error": "Json error" if is_json else "Query processing error",
        "cause": error.message,
    }
