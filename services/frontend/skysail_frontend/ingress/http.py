"""What both HTTP doors need: JSON answers, errors, deadlines, queries as an await."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from skysail_common.clock import NEVER
from skysail_common.errors import (
    InvalidInput,
    SkysailError,
    Status,
)
from skysail_frontend.dispatch import Dispatcher
from skysail_frontend.ingress.http_bodies import BodyTooLarge
from skysail_frontend.ingress.json_answers import json_text
from skysail_frontend.ingress.turns import Turn
from skysail_frontend.query import Prediction, Query, Settle

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
"""Header with the longest wait of the caller, in milliseconds."""


def http_status(error: SkysailError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, BodyTooLarge):
        return 413
    return _HTTP_STATUS.get(error.status, 500)


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with a JSON body, as `json_text` writes it."""
    return Response(json_text(value), status, media_type="application/json")


def arrival_of(request: Request, dispatcher: Dispatcher) -> float:
    """Return the instant at which the server had read the head of a request."""
    arrival = request.scope.get("arrival")
    return dispatcher.clock() if arrival is None else float(arrival)


def deadline_of(request: Request, arrival: float) -> float:
    """Return the instant by which the header of a request wants the answer, or `NEVER`.

    Raises:
        InvalidInput: it is no number greater than 0.
    """
    text = request.headers.get(TIMEOUT_HEADER)
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
        request: What is answered; a client that goes away cancels its queries.
        dispatcher: Answers it.
        make: Makes the query, which is to call the function that it is given.
    """
    (answer,) = await predict_all(request, dispatcher, [make])
    return answer


async def predict_all(
    request: Request, dispatcher: Dispatcher, makes: list[Callable[[Settle], Query]]
) -> list[tuple[Query, Prediction]]:
    """Submit queries together and return each with its prediction, in their order.

    The functions that make them are taken off their list.
    """
    all_answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    count = len(makes)
    predictions: dict[Query, Prediction] = {}

    def settle(query: Query, prediction: Prediction) -> None:
        predictions[query] = prediction
        if len(predictions) == count and not all_answered.done():
            all_answered.set_result(None)

    turn = Turn(dispatcher.clock)
    queries: list[Query] = []
    with dispatcher.statistics.refusals:
        makes.reverse()
        while makes:
            queries.append(makes.pop()(settle))
            await turn.end_if_long()
    leaving = asyncio.create_task(_client_left(request), name="HTTP client leaves")
    try:
        for query in queries:
            dispatcher.submit(query)
            await turn.end_if_long()
        await asyncio.wait({all_answered, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not all_answered.done():
            raise InvalidInput("the client went away before its answer")
        return [(query, predictions[query]) for query in queries]
    finally:
        leaving.cancel()
        for query in queries:
            if not query.is_settled:
                dispatcher.cancel(query)
                await turn.end_if_long()


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
