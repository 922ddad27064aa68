"""The ready line: the line of standard output with the addresses that a process has bound.

listening frontend grpc=127.0.0.1:8001 http=127.0.0.1:8000
{"event": "listening", "addresses": {"grpc": "127.0.0.1:8001", …}, …}    with JSON logs
"""

import asyncio
import json
import logging
import sys
from urllib.parse import quote, unquote

from skysail_common.process.logs import JsonFormatter

_PLAIN = "/:[]=,@+~"
_LISTENING = "listening"


def print_ready_line(service: str, log_format: str = "console", **bound: str) -> None:
    """Print the ready line, from which a parent process reads the bound addresses.

    The line does not mean that the process answers queries: a frontend may still lack routes.

    Args:
        service: Name of the service.
        log_format: `json` to print an event in the format of a JSON log.
        bound: Addresses by name.
    """
    if log_format == "json":
        event = logging.makeLogRecord(
            {"name": __name__, "levelname": "INFO", "msg": _LISTENING, "addresses": bound}
        )
        line = JsonFormatter(service).format(event)
    else:
        # White space separates the pairs, so that white space in a path is quoted.
        pairs = (f"{name}={quote(value, safe=_PLAIN)}" for name, value in bound.items())
        line = " ".join((_LISTENING, service, *pairs))
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def read_ready_line(output: asyncio.StreamReader) -> dict[str, str] | None:
    """Return the bound addresses of a child process; None if its output ends before the ready line.

    Other lines are copied to standard error.
    """
    while line := await output.readline():
        bound = parse_ready_line(line.decode(errors="replace"))
        if bound is not None:
            return bound
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
    return None


def parse_ready_line(line: str) -> dict[str, str] | None:
    """Return the bound addresses of a ready line; None if `line` is not one."""
    if line.startswith("{"):
        return _parse_ready_event(line)
    words = line.split()
    if len(words) < 2 or words[0] != _LISTENING:
        return None
    pairs = (word.partition("=")[::2] for word in words[2:])
    return {name: unquote(value) for name, value in pairs}


def _parse_ready_event(line: str) -> dict[str, str] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if event.get("event") != _LISTENING or not isinstance(event.get("addresses"), dict):
        return None
    return {str(name): str(value) for name, value in event["addresses"].items()}
