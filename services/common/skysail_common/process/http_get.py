"""A small HTTP client for the metrics port of a frontend on the same machine."""

import asyncio
from collections.abc import Mapping

from skysail_common.process.sockets import local_endpoint, split_host_port

TIMEOUT_S = 2.0
"""Longest time until the end of a page."""

_CHUNK_BYTES = 256 * 1024
_MAX_BYTES = 64 * 1024 * 1024


async def read_page(endpoint: str, path: str) -> tuple[int, str]:
    """Return the HTTP status and the text of a page.

    Args:
        endpoint: Address of the metrics port, as host:port.
        path: Path of the page, such as `/metrics`.

    Raises:
        OSError: no answer came within `TIMEOUT_S`.
    """
    asking = asyncio.ensure_future(_answer(local_endpoint(endpoint), path))
    try:
        # Before Python 3.12, wait_for loses a cancellation that comes at the same time as its
        # result.
        await asyncio.wait({asking}, timeout=TIMEOUT_S)
        if not asking.done():
            raise ConnectionError(f"{endpoint}{path}: no answer within {TIMEOUT_S:g} s")
        answer = asking.result()
    finally:
        asking.cancel()
    head, separator, text = answer.partition("\r\n\r\n")
    status = head.partition(" ")[2][:3]
    if not separator or not status.isdigit():
        raise ConnectionError(f"{endpoint}{path}: the answer is not HTTP")
    return int(status), text


async def is_live(bound: Mapping[str, str]) -> bool:
    """Return whether the event loop of a frontend answers.

    Args:
        bound: Addresses of its ready line.
    """
    try:
        await read_page(bound["metrics"], "/live")
    except OSError:
        return False
    # An error response is a sign of life too.
    return True


async def _answer(endpoint: str, path: str) -> str:
    reader, writer = await asyncio.open_connection(*split_host_port(endpoint))
    try:
        # An HTTP/1.0 response is not chunked and ends with the connection.
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {endpoint}\r\n\r\n".encode())
        answer = bytearray()
        while chunk := await reader.read(_CHUNK_BYTES):
            answer += chunk
            if len(answer) > _MAX_BYTES:
                raise ConnectionError(f"{endpoint}{path}: more than {_MAX_BYTES} bytes")
        return answer.decode()
    finally:
        writer.close()
