"""Logging: an event is a short lower-case phrase with key-values.

    log.info("batch sent", extra={"size": 12, "replica": "sum:3/0"})
    with bind(model="sum:3"):
        log.info("replica is ready")        # model=sum:3 comes along

`configure` is called once, by `__main__`.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any, TextIO

from skysail_common.identifiers import ModelVersion

_bound: ContextVar[dict[str, Any] | None] = ContextVar("skysail_log_context", default=None)

# What a LogRecord has by itself; whatever else it carries came by `extra`.
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "bound",
    "color_message",
}


@contextmanager
def bind(**values: Any) -> Iterator[None]:
    """Add key-values to every event logged inside the `with` block, across awaits."""
    token = _bound.set({**(_bound.get() or {}), **values})
    try:
        yield
    finally:
        _bound.reset(token)


def _key_values(record: logging.LogRecord) -> dict[str, Any]:
    extra = {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}
    return {**(_bound.get() or {}), **extra}


class ConsoleFormatter(logging.Formatter):
    """One line for people: local date, time and zone, level, service, event, key-values."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback below it if there is one."""
        local = datetime.fromtimestamp(record.created, timezone.utc).astimezone()
        moment = local.isoformat(" ", "milliseconds")
        pairs = "".join(f" {key}={_shown(value)}" for key, value in _key_values(record).items())
        line = (
            f"{moment} {record.levelname.lower():7} {self._service}: {record.getMessage()}{pairs}"
        )
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _shown(value: Any) -> str:
    text = str(value)
    return repr(text) if any(character in text for character in " \n\"'=") or not text else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line for machines."""

    def __init__(self, service: str, fields: Mapping[str, object] | None = None) -> None:
        """Write events of a service, each with the same `fields`."""
        super().__init__()
        self._service = service
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; the traceback, if there is one, is under `traceback`."""
        event: dict[str, Any] = {
            **self._fields,
            **_key_values(record),
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "event": record.getMessage(),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps({key: _plain(value) for key, value in event.items()}, default=str)


def _plain(value: Any) -> Any:
    """Return a name in its text form, such as `sum:3`; JSON has a list for a named tuple."""
    return str(value) if isinstance(value, ModelVersion) else value


def configure(
    service: str,
    level: str,
    log_format: str,
    stream: TextIO | None = None,
    fields: Mapping[str, object] | None = None,
) -> None:
    """Make every logger of the process write to `stream` (standard error if None).

    Args:
        service: Name of the service.
        level: Events below this level are not written.
        log_format: `console` or `json`.
        stream: Where lines go.
        fields: What each JSON object has; a console line has it not, because the log of one process
            repeats it.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    is_json = log_format == "json"
    handler.setFormatter(JsonFormatter(service, fields) if is_json else ConsoleFormatter(service))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Libraries tell every step at info; what they say at warning matters.
    for library in ("grpc", "uvicorn", "uvicorn.access", "asyncio"):
        logging.getLogger(library).setLevel(
            max(logging.WARNING, logging.getLevelName(level.upper()))
        )
