"""Shared parts of both HTTP doors: JSON answers, errors, deadlines and awaitable queries."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from skysail_common.clock import NEVER
from skysail_common.errors import (
    InvalidInput,
    SkysailError,
    Status,
)
from skysail_frontend.core.dispatcher import Dispatcher
from skysail_frontend.core.query import Prediction, Query, Settle
from skysail_frontend.ingress.http_bodies import BodyTooLarge
from skysail_frontend.ingress.json_answers import json_text
from skysail_frontend.ingress.time_slice import TimeSlice

_HTTP_STATUS = {
    Status.INVALID_ARGUMENT: 400,
    Status.FAILED_PRECONDITION: 400,
    Status.UNAUTHENTICATED: 401,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.ABORTED: 409,
    Status.RESOURCE_EXHAUSTED: 503,
    Status.UNAVAILABLE: 503,
    Status.DEADLINE_EXCEEDED: 504,
    Status.UNIMPLEMENTED: 501,
    Status.INTERNAL: 500,
}


TIMEOUT_HEADER = "skysail-timeout-ms"
"""Header with the longest wait of the client, in milliseconds."""
_TIMEOUT_KEY = TIMEOUT_HEADER.encode()


def http_status(error: SkysailError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, BodyTooLarge):
        return 413
    return _HTTP_STATUS.get(error.status, 500)


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with a JSON body (see `json_text`)."""
    return Response(json_text(value), status, media_type="application/json")


def arrival_of(request: Request, dispatcher: Dispatcher) -> float:
    """Return the instant at which the head of a request was complete."""
    arrival = request.scope.get("arrival")
    return dispatcher.clock() if arrival is None else float(arrival)


def deadline_of(headers: Mapping[bytes, bytes], arrival: float) -> float:
    """Return the deadline in the headers of a request, or `NEVER`.

    Raises:
        InvalidInput: the time is not a number greater than 0.
    """
    text = headers.get(_TIMEOUT_KEY)
    if text is None:
        return NEVER
    try:
        timeout_s = float(text) / 1000
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < NEVER:
        raise InvalidInput(f"header {TIMEOUT_HEADER} must be milliseconds greater than 0")
    return arrival + timeout_s


async def predict(
    request: Request, dispatcher: Dispatcher, make: Callable[[Settle], Query]
) -> tuple[Query, Prediction]:
    """Submit a query and return it with its prediction, which may be an error.

    Args:
        request: The request; a disconnect of its client cancels the query.
        dispatcher: Dispatcher of queries.
        make: Function that makes the query; its argument is the callback that settles the query.
    """
    (answer,) = await predict_all(request, dispatcher, [make])
    return answer


async def predict_all(
    request: Request, dispatcher: Dispatcher, makes: list[Callable[[Settle], Query]]
) -> list[tuple[Query, Prediction]]:
    """Submit queries together and return each with its prediction, in order.

    The call empties the list of functions that make the queries.
    """
    # The result is False if the client disconnected.
    all_answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    count = len(makes)
    predictions: dict[Query, Prediction] = {}

    def settle(query: Query, prediction: Prediction) -> None:
        predictions[query] = prediction
        if len(predictions) == count and not all_answered.done():
            all_answered.set_result(True)

    def give_up(_: asyncio.Future[None]) -> None:
        if not all_answered.done():
            all_answered.set_result(False)

    time_slice = TimeSlice(dispatcher.clock)
    queries: list[Query] = []
    with dispatcher.statistics.refusals:
        makes.reverse()
        while makes:
            queries.append(makes.pop()(settle))
            await time_slice.yield_if_over()
    # The connection sets this future. A task that waits for the disconnect would cost a tenth of a
    # small query.
    client_left: asyncio.Future[None] | None = request.scope.get("client_left")
    if client_left is not None:
        client_left.add_done_callback(give_up)
    try:
        for query in queries:
            dispatcher.submit(query)
            await time_slice.yield_if_over()
        if not await all_answered:
            raise InvalidInput("the client disconnected before the answer")
        return [(query, predictions[query]) for query in queries]
    finally:
        if client_left is not None:
            client_left.remove_done_callback(give_up)
        for query in queries:
            if not query.is_settled:
                dispatcher.cancel(query)
                await time_slice.yield_if_over()
