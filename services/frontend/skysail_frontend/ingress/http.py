"""What both HTTP doors need: bodies with a limit, JSON, errors, one query as an await."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from skysail_common.clock import NEVER
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


TIMEOUT_HEADER = "skysail-timeout-ms"
"""Header with the longest wait of the caller, in milliseconds."""

# As zlib calls the two formats: the one with gzip's header and the one with its own.
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


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
        InvalidInput: it is not JSON, or as `read_body`.
    """
    return parse_json(await read_body(request, max_bytes))


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request, decompressed where it came by gzip or deflate.

    Raises:
        BodyTooLarge: it is larger than `max_bytes`, as it comes or decompressed; it is not read
            beyond.
        InvalidInput: it is not what its headers say.
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
    encoding = request.headers.get("content-encoding", "identity").lower()
    body = b"".join(parts)
    return body if encoding == "identity" else _decompressed(body, encoding, max_bytes)


def _decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    if encoding not in _WINDOW_BITS:
        raise InvalidInput(
            f"the body has content encoding {encoding[:40]!r}; known are {', '.join(_WINDOW_BITS)}"
        )
    decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body cannot be decompressed by {encoding}: {error}") from error
    if len(content) > max_bytes:
        raise BodyTooLarge(f"the body is larger than the limit of {max_bytes} bytes, decompressed")
    if not decompressor.eof or decompressor.unused_data:
        where = "goes on after" if decompressor.eof else "ends before"
        raise InvalidInput(f"the body {where} the end of its {encoding} data")
    return content


def parse_json(text: bytes | memoryview) -> Any:
    """Return the value of a JSON text.

    Raises:
        InvalidInput: it is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"Error parsing JSON: {error}") from error


def json_response(value: Any, status: int = 200) -> Response:
    """Return a response with a JSON body, as `json_text` writes it."""
    return Response(json_text(value), status, media_type="application/json")


def json_text(value: Any) -> bytes:
    """Return a value as JSON; numpy arrays become lists, NaN becomes null.

    Raises:
        ModelFailed: JSON cannot hold it.
    """
    try:
        return orjson.dumps(value, _plain, orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise ModelFailed(f"the answer cannot be written as JSON: {error}") from error


def _plain(value: Any) -> Any:
    # orjson itself writes arrays of numbers only.
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")


def deadline_of(request: Request, now: float) -> float:
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
    return now + timeout_s


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
    request: Request, dispatcher: Dispatcher, makes: Sequence[Callable[[Settle], Query]]
) -> list[tuple[Query, Prediction]]:
    """Submit queries together and return each with its prediction, in their order."""
    all_answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    predictions: dict[Query, Prediction] = {}

    def settle(query: Query, prediction: Prediction) -> None:
        predictions[query] = prediction
        if len(predictions) == len(makes) and not all_answered.done():
            all_answered.set_result(None)

    with dispatcher.statistics.refusals:
        queries = [make(settle) for make in makes]
    for query in queries:
        dispatcher.submit(query)
    leaving = asyncio.create_task(_client_left(request), name="HTTP client leaves")
    try:
        await asyncio.wait({all_answered, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not all_answered.done():
            raise InvalidInput("the client went away before its answer")
        return [(query, predictions[query]) for query in queries]
    finally:
        leaving.cancel()
        for query in queries:
            dispatcher.cancel(query)


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
