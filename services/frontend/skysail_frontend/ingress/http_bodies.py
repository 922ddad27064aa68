"""Bodies of HTTP requests: reading within limits, and decompression in time slices."""

import zlib
from collections.abc import Iterator, Mapping

from starlette.requests import Request

from skysail_common.errors import InvalidInput
from skysail_frontend.ingress.binary_tensors import JSON_LENGTH_KEY
from skysail_frontend.ingress.http_limits import MIB, MemoryReservation
from skysail_frontend.ingress.time_slice import TimeSlice, join

# Window sizes by which zlib selects the format: gzip's header, or its own.
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}

_MAX_GAIN = 20
"""Largest growth factor of a decompressed body above `_FREE_GAIN_BYTES`."""

_FREE_GAIN_BYTES = 4 * MIB

_MAX_MEMBERS = 1024
"""Largest number of members of a gzip body."""

_GZIP_MAGIC = b"\x1f\x8b"

_STEP_BYTES = 16 * 1024
_MAX_STEP_BYTES = 256 * 1024


def headers_of(request: Request) -> Mapping[bytes, bytes]:
    """Return the headers of a request by name in lower case; a repeated one has its last value.

    The dictionary is faster than Starlette's headers, which encode and search names at each look-up.
    """
    return dict(request.scope["headers"])


_SETTING = ", which SKYSAIL_FRONTEND_MAX_MESSAGE_MIB sets"


class BodyTooLarge(InvalidInput):
    """The body of a request exceeds a limit."""


async def read_body(
    request: Request, headers: Mapping[bytes, bytes], max_bytes: int, reservation: MemoryReservation
) -> bytes:
    """Return the body of a request, decompressed from gzip or deflate.

    Raises:
        BodyTooLarge: the body exceeds `max_bytes`, compressed or decompressed, or grows too much;
            the rest is not read.
        InvalidInput: the body does not match its headers.
        Overloaded: the bodies of all requests exceed the memory limit.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > max_bytes:
        raise BodyTooLarge(f"the body is {int(declared)} bytes; the limit is {max_bytes}{_SETTING}")
    if b"content-type" in headers:
        _check_type(headers[b"content-type"].decode("latin-1").lower())
    encoding = ""
    if b"content-encoding" in headers:
        encoding = ",".join(request.headers.getlist("content-encoding")).strip().lower()
        if encoding not in ("", "identity", *_WINDOW_BITS):
            raise InvalidInput(
                f"the body has content encoding {encoding[:40]!r}; known are gzip, deflate"
            )
    body = await _received(request, max_bytes, reservation)
    if encoding not in _WINDOW_BITS:
        return body
    # A tensor of zeros may grow by any factor, and costs only its bytes.
    is_binary = JSON_LENGTH_KEY in headers
    gained = max_bytes if is_binary else max(_FREE_GAIN_BYTES, _MAX_GAIN * len(body))
    return await _decompressed(body, encoding, max_bytes, gained, reservation)


def _check_type(content_type: str) -> None:
    # Other types count as JSON: curl sends the type of a form, and many clients send no type.
    if content_type.startswith("multipart/"):
        raise InvalidInput("the body is multipart; send JSON as application/json")
    _, _, charset = content_type.partition("charset=")
    if charset and not charset.strip('"').startswith(("utf-8", "utf8", "us-ascii")):
        raise InvalidInput(f"the body has charset {charset[:40]!r}; send JSON in UTF-8")


async def _received(request: Request, max_bytes: int, reservation: MemoryReservation) -> bytes:
    parts: list[bytes] = []
    size = 0
    has_more = True
    while has_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise InvalidInput("the client disconnected before the end of its request")
        part, has_more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > max_bytes:
            raise BodyTooLarge(f"the body is larger than the limit of {max_bytes} bytes{_SETTING}")
        reservation.add(len(part))
        parts.append(part)
    return await join(parts)


async def _decompressed(
    body: bytes, encoding: str, max_bytes: int, max_gained: int, reservation: MemoryReservation
) -> bytes:
    time_slice = TimeSlice()
    parts: list[bytes] = []
    size = 0
    try:
        for part in _inflated(body, encoding):
            size += len(part)
            if size > max_bytes:
                raise BodyTooLarge(
                    f"the body, decompressed, is larger than the limit of {max_bytes} bytes"
                    f"{_SETTING}"
                )
            if size > max_gained:
                raise BodyTooLarge(
                    f"the body of {len(body)} bytes grows to more than {max_gained} when it is "
                    "decompressed; send it uncompressed or as binary tensors"
                )
            reservation.add(len(part))
            parts.append(part)
            await time_slice.yield_if_over()
    except zlib.error as error:
        raise InvalidInput(f"the body cannot be decompressed by {encoding}: {error}") from error
    return await join(parts)


def _inflated(body: bytes, encoding: str) -> Iterator[bytes]:
    """Decompress a body in steps of bounded size.

    Raises:
        InvalidInput: the compressed data end too soon, or other data follow them.
        zlib.error: the data do not have the declared format.
    """
    decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
    num_members = 1
    for begin in range(0, len(body), _STEP_BYTES):
        rest = body[begin : begin + _STEP_BYTES]
        while rest:
            if decompressor.eof:
                num_members += 1
                is_member = encoding != "deflate" and rest.startswith(_GZIP_MAGIC[: len(rest)])
                if not is_member or num_members > _MAX_MEMBERS:
                    raise InvalidInput(f"the body goes on after the end of its {encoding} data")
                decompressor = zlib.decompressobj(_WINDOW_BITS[encoding])
            yield decompressor.decompress(rest, _MAX_STEP_BYTES)
            rest = decompressor.unconsumed_tail or decompressor.unused_data
    # The window may still hold the last bytes.
    yield decompressor.flush()
    if not decompressor.eof:
        raise InvalidInput(f"the body ends before the end of its {encoding} data")
