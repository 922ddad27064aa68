"""Logging: an event is a short lower-case phrase with key-values.

    log.info("batch sent", extra={"size": 12, "replica": "sum:3/0"})
    with bind(model="sum:3"):
        log.info("replica is ready")        # with model=sum:3

`__main__` calls `configure` once.
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

# Attributes of each LogRecord; all others come from `extra`.
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
        """Return the line, and the traceback below it if the record has one."""
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
    """One JSON object per line, for machines."""

    def __init__(self, service: str, fields: Mapping[str, object] | None = None) -> None:
        """Format events of a service; `fields` are part of each event."""
        super().__init__()
        self._service = service
        self._fields = dict(fields or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; `traceback` is the traceback if the record has one."""
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
    """Return a name in its text form, such as `sum:3`; JSON would show a named tuple as a list."""
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
        level: Least severe level to write.
        log_format: `console` or `json`.
        stream: Destination of the lines.
        fields: Fields of each JSON object; console lines omit them, because they repeat in the log of
            one process.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    is_json = log_format == "json"
    handler.setFormatter(JsonFormatter(service, fields) if is_json else ConsoleFormatter(service))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # Libraries log every step at info; only their warnings matter.
    for library in ("grpc", "uvicorn", "uvicorn.access", "asyncio"):
        logging.getLogger(library).setLevel(
            max(logging.WARNING, logging.getLevelName(level.upper()))
        )
