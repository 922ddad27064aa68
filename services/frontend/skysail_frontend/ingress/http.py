"""What both HTTP doors need: bodies with a limit, JSON, errors, one query as an await."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from skysail_common.errors import (
    InvalidInput,
    ModelFailed,
    SkysailError,
    Status,
)
from skysail_frontend.dispatch import Dispatcher
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


class BodyTooLarge(InvalidInput):
    """The body of a request is larger than this server takes."""


def http_status(error: SkysailError) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, BodyTooLarge):
        return 413
    return _HTTP_STATUS.get(error.status, 500)


async def read_json(request: Request, max_bytes: int) -> Any:
    """Return the JSON body of a request.

    Raises:
        BodyTooLarge: it is larger than `max_bytes`; it is not read beyond.
        InvalidInput: it is not JSON.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body is {declared} bytes; the limit is {max_bytes}")
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > max_bytes:
                raise BodyTooLarge(f"the body is larger than the limit of {max_bytes} bytes")
            parts.append(part)
    except ClientDisconnect as error:
        raise InvalidInput("the client went away before the end of its request") from error
    try:
        return orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"Error parsing JSON: {error}") from error


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with a JSON body; numpy arrays become lists, NaN becomes null."""
    try:
        body = orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise ModelFailed(f"the answer cannot be written as JSON: {error}") from error
    return Response(body, status, media_type="application/json")


def _plain(value: Any) -> Any:
    # orjson itself writes arrays of numbers only.
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")


async def predict(
    dispatcher: Dispatcher, make: Callable[[Settle], Query]
) -> tuple[Query, Prediction]:
    """Submit a query and return it with its prediction, which may be an error.

    Args:
        dispatcher: Answers it.
        make: Makes the query, which is to call the function that it is given.
    """
    answered: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()

    def settle(_: Query, prediction: Prediction) -> None:
        if not answered.done():
            answered.set_result(prediction)

    query = make(settle)
    dispatcher.submit(query)
    try:
        return query, await answered
    except asyncio.CancelledError:
        dispatcher.cancel(query)
        raise
