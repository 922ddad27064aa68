"""Reasons why a replica ended, from its exit status and the end of its log."""

import json
import re
import signal
from dataclasses import replace
from typing import Any

from skysail_common.replica_events import (
    NOT_LOADED,
    NOT_READY,
    STUCK,
    UNHEALTHY,
    place_of,
    where_stuck,
)
from skysail_common.states import ExitCode
from skysail_management.containers.base import Container

SILENT = "stopped answering health checks and was killed"
"""The reason for a replica that stopped answering."""

LOG_TAIL_BYTES = 8_192
"""Size limit of the log excerpt of a failure."""

LOG_READ_BYTES = 262_144
"""Bytes of a log that are searched for the reason; its last lines may be far longer than the
excerpt."""

_LINE_END_CHARACTERS = 1_000
_CAUSE_BEGIN = 300
_CAUSE_END = 300
_OWN_KEYS = frozenset(
    {"time", "level", "service", "logger", "event", "traceback", "text", "model", "version"}
)
# faulthandler writes this line for a function that holds the interpreter.
_HELD = re.compile(r"^Timeout \((\d+):(\d+):(\d+)(?:\.\d+)?\)!$", re.MULTILINE)
_FRAME = re.compile(r'^  File "(?P<file>[^"\n]*)", line (?P<line>\d+) in (?P<name>.+)$')
_CALLERS = ("call_function", "call_coroutine_function", "call_hook")


def exit_reason(status: int | None) -> str:
    """Return why a replica ended, for people; a negative status is the number of a signal."""
    if status is None:
        return "ended with unknown exit status, because an earlier management started it"
    if status == ExitCode.LOAD_FAILED:
        return "cannot load the model, or the model failed on its warm-up query"
    if status == ExitCode.STUCK:
        return "stuck: its function did not return; its log shows where it hung"
    if status == ExitCode.OUT_OF_MEMORY:
        return "out of memory: its function could not allocate memory; raise memory_mib"
    if status == ExitCode.UNHEALTHY:
        return "unhealthy: its check_health failed; its log has the error"
    if status == ExitCode.UNAVAILABLE:
        return "the model server cannot reach management"
    if status < 0:
        number = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        hint = "; the machine may have run out of memory" if number == "SIGKILL" else ""
        return f"killed by {number}{hint}"
    return f"exited with status {status}"


def explain_exit(reason: str, log: bytes | str) -> str:
    """Return the reason why a replica ended, with the cause that its log reports."""
    if reason == exit_reason(ExitCode.LOAD_FAILED):
        return load_failure(log) or reason
    if reason == exit_reason(ExitCode.UNHEALTHY):
        cause = _last_report(
            UNHEALTHY, log.decode(errors="replace") if isinstance(log, bytes) else log
        )
        return f"unhealthy: its check_health failed: {cause}" if cause else reason
    # A function that holds the interpreter ends the process with the status of any other failure.
    if reason not in (exit_reason(ExitCode.STUCK), exit_reason(ExitCode.FAILED)):
        return reason
    call = stuck_call(log)
    return f"stuck: its function did not return: {call}" if call else reason


def log_excerpt(log: bytes | str) -> str:
    """Return the end of a log for people, as whole lines with long lines shortened.

    The excerpt always has the last line. It is at most `LOG_TAIL_BYTES` long, even for a log that
    is cut off.
    """
    text = log.decode(errors="replace") if isinstance(log, bytes) else log
    kept: list[str] = []
    room = LOG_TAIL_BYTES
    for line in reversed(text.split("\n")):
        shown = "\n".join(_shorten(each) for each in _readable(line).split("\n"))
        room -= len(shown.encode()) + 1
        if room < -1 and any(kept):
            break
        kept.append(shown)
    return "\n".join(reversed(kept))


def _shorten(line: str) -> str:
    """Return a line without its middle part if it is long."""
    num_left_out = len(line) - 2 * _LINE_END_CHARACTERS
    if num_left_out <= 0:
        return line
    begin, end = line[:_LINE_END_CHARACTERS], line[-_LINE_END_CHARACTERS:]
    return f"{begin} … {num_left_out} characters … {end}"


def _readable(line: str) -> str:
    """Return a line for people: a JSON event as text, any other line unchanged."""
    if not line.startswith("{"):
        return line
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict) or not {"level", "service", "event"} <= event.keys():
        return line
    if "text" in event:
        return str(event["text"])
    pairs = "".join(f" {key}={value}" for key, value in event.items() if key not in _OWN_KEYS)
    shown = f"{event['level']} {event['service']}: {event['event']}{pairs}"
    return f"{shown}\n{event['traceback']}" if "traceback" in event else shown


def stuck_call(log: bytes | str) -> str:
    """Return how the stuck call of a replica hung; empty if the log does not say."""
    text = log.decode(errors="replace") if isinstance(log, bytes) else log
    if told := _last_report(STUCK, text):
        return told
    dumps = list(_HELD.finditer(text))
    if not dumps:
        return ""
    hours, minutes, seconds = map(int, dumps[-1].groups())
    after_s = 3600 * hours + 60 * minutes + seconds
    where = where_stuck(_places_of_call(text[dumps[-1].end() :]))
    return f"no result after {after_s} s, with the interpreter held{where}"


def load_failure(log: bytes | str) -> str:
    """Return why a model could not be loaded; empty if the log does not say."""
    text = log.decode(errors="replace") if isinstance(log, bytes) else log
    cause = _last_report(NOT_LOADED, text)
    if len(cause) <= _CAUSE_BEGIN + _CAUSE_END:
        return cause
    # The end of the cause has the place in the user's code and the fix; the log has the rest.
    return f"{cause[:_CAUSE_BEGIN]} … {cause[-_CAUSE_END:]}"


def explain_start_timeout(container: Container, log: str) -> Container:
    """Return a container that was not ready in time, with its last activity from the log."""
    told = _last_report(NOT_READY, log)
    doing = f": {told}; raise start_timeout_s if it needs longer" if told else ""
    return replace(container, reason=f"{container.reason}{doing}", log_tail=log_excerpt(log))


def _last_report(event: str, log: str) -> str:
    """Return the text of the last event of this name in a log, or an empty text."""
    marker = f"{event}: "
    for line in reversed(log.split("\n")):
        if marker in line:
            return _shorten(_readable(line).partition("\n")[0].partition(marker)[2])
    return ""


def _places_of_call(stacks: str) -> list[str]:
    """Return the frames of the user's function, innermost first, from the stacks of all threads."""
    places: list[str] = []
    for line in stacks.split("\n"):
        frame = _FRAME.match(line)
        if frame is None:
            places.clear()
        elif frame["name"] in _CALLERS:
            return places
        else:
            places.append(place_of(frame["name"], frame["file"], int(frame["line"])))
    return []
