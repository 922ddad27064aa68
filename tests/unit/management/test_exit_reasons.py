import json
import logging
from datetime import datetime, timezone

import pytest

from skysail_common.identifiers import ModelVersion, ReplicaId
from skysail_common.process.logs import ConsoleFormatter, JsonFormatter
from skysail_common.replica_events import NOT_LOADED, NOT_READY, STUCK, UNHEALTHY
from skysail_common.states import ExitCode, ReplicaState
from skysail_management.containers.base import Container
from skysail_management.containers.exit_reasons import (
    LOG_TAIL_BYTES,
    exit_reason,
    explain_exit,
    explain_start_timeout,
    load_failure,
    log_excerpt,
    stuck_call,
)

FORMATTERS = [ConsoleFormatter("model-server"), JsonFormatter("model-server", {"model": "m"})]


def line(formatter: logging.Formatter, event: str, *args: object, **extra: object) -> str:
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, event, args, None)
    vars(record).update(extra)
    return formatter.format(record)


def test_short_log_is_kept_whole():
    assert log_excerpt(b"one\ntwo\n") == "one\ntwo\n"
    assert log_excerpt(b"") == ""


def test_excerpt_has_the_last_whole_lines():
    lines = [f"line {number:04}" for number in range(2000)]
    kept = log_excerpt("\n".join([*lines, ""])).splitlines()
    assert kept == lines[-len(kept) :]
    assert LOG_TAIL_BYTES - 10 <= sum(len(each) + 1 for each in kept) <= LOG_TAIL_BYTES


@pytest.mark.parametrize("text", ["x", "日", "\U0001f600"])
def test_long_last_line_keeps_its_beginning_and_end(text):
    told = log_excerpt(f"before\nKeyError: 'first {text * 50_000} last'\n".encode())
    assert told.startswith("before\nKeyError: 'first ")
    assert told.endswith(" last'\n")
    assert "characters …" in told
    assert len(told.encode()) <= LOG_TAIL_BYTES + 1_000


def test_invalid_utf8_is_replaced():
    assert log_excerpt(b"a\xff\n") == "a\ufffd\n"


def test_json_events_are_shown_as_text():
    formatter = JsonFormatter(
        "model-server", {"model": "m", "version": ModelVersion("m", "1"), "replica": "m:1/0"}
    )
    event = line(formatter, "query failed", error="KeyError: 'x'")
    reason = "the function failed on the warm-up query: KeyError: 'x'\nTraceback\n  File"
    given_up = line(formatter, "replica gives up", text=reason)
    log = "\n".join(["printed {", event, given_up, '{"of": "the function"}', "{"])
    assert log_excerpt(log) == (
        "printed {\nerror model-server: query failed replica=m:1/0 error=KeyError: 'x'\n"
        f'{reason}\n{{"of": "the function"}}\n{{'
    )


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_report_explains_a_stuck_call(formatter):
    log = "\n".join(
        [
            line(formatter, "%s: %s", STUCK, "no result after 11 s, in earlier, m.py line 1"),
            line(formatter, "%s: %s", STUCK, "no result after 301 s, in predict, m.py line 7"),
            "TimeoutError: no result after 301 s",
        ]
    )
    assert stuck_call(log) == "no result after 301 s, in predict, m.py line 7"
    assert explain_exit(exit_reason(ExitCode.STUCK), log) == (
        "stuck: its function did not return: no result after 301 s, in predict, m.py line 7"
    )
    # The process ended for another reason.
    assert explain_exit(exit_reason(-9), log) == exit_reason(-9)


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_report_explains_an_unhealthy_model(formatter):
    log = "\n".join(
        [line(formatter, "%s: %s", UNHEALTHY, "OSError: lost (in check_health, m.py line 7)"), "x"]
    )
    assert explain_exit(exit_reason(ExitCode.UNHEALTHY), log) == (
        "unhealthy: its check_health failed: OSError: lost (in check_health, m.py line 7)"
    )
    assert explain_exit(exit_reason(ExitCode.UNHEALTHY), "") == exit_reason(ExitCode.UNHEALTHY)


HELD = """\
printed before
Timeout (0:05:02)!
Thread 0x00007f3c (most recent call first):
  File "/lib/python3.11/asyncio/base_events.py", line 607 in run_forever
  File "/lib/python3.11/threading.py", line 982 in run

Thread 0x00007f3d (most recent call first):
  File "/work/modules/models.py", line 12 in <listcomp>
  File "/work/modules/models.py", line 12 in holds
  File "/site-packages/skysail_common/model_functions.py", line 47 in call_function
  File "/site-packages/skysail_model_server/model.py", line 50 in predict
"""


@pytest.mark.parametrize("caller", ["call_function", "call_coroutine_function", "call_hook"])
def test_stacks_explain_a_call_that_held_the_interpreter(caller):
    assert stuck_call(HELD.replace("call_function", caller)) == (
        "no result after 302 s, with the interpreter held, in holds, models.py line 12 "
        "(<listcomp>, models.py line 12)"
    )
    assert explain_exit(exit_reason(1), HELD).startswith("stuck: its function did not return: no")
    assert stuck_call("Timeout (0:05:02)!\n") == (
        "no result after 302 s, with the interpreter held"
    )


@pytest.mark.parametrize("status", [1, ExitCode.STUCK])
def test_log_without_a_stuck_call_explains_nothing(status):
    assert explain_exit(
        exit_reason(status), "a Timeout (0:05:02)! of the function\n"
    ) == exit_reason(status)


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_start_timeout_names_the_last_activity(formatter):
    container = Container(
        "m.1.0-ab", ReplicaId(ModelVersion("m", "1"), 0), ReplicaState.DRAINING,
        reason="not ready within 60 s", started_at=datetime.now(timezone.utc),
    )  # fmt: skip
    log = "\n".join(
        [
            line(formatter, "%s: %s", NOT_READY, "loading the model"),
            line(formatter, "%s: %s", NOT_READY, "warming up, call 2, for 16 s"),
            "printed " + "x" * 10_000,
        ]
    )
    found = explain_start_timeout(container, log)
    assert found.reason == (
        "not ready within 60 s: warming up, call 2, for 16 s; raise start_timeout_s if it needs "
        "longer"
    )
    assert len(found.log_tail) < LOG_TAIL_BYTES
    assert explain_start_timeout(container, "").reason == "not ready within 60 s"


def test_json_of_other_programs_is_unchanged():
    log = json.dumps({"level": "info", "message": "x"}) + "\n[1]\n{not json}"
    assert log_excerpt(log) == log


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_load_failure_is_the_reason(formatter):
    cause = "loading the model failed: KeyError: 'x' (in load, m.py line 3)"
    report = line(formatter, "%s: %s", NOT_LOADED, cause)
    log = "\n".join(["printed", report, "Traceback (most recent call last):", "KeyError: 'x'"])
    reason = exit_reason(ExitCode.LOAD_FAILED)
    assert explain_exit(reason, log) == cause
    assert explain_exit(reason, "Traceback") == reason
    assert explain_exit("killed by SIGKILL", log) == "killed by SIGKILL"


def test_long_cause_keeps_its_beginning_and_place():
    cause = f"KeyError: {'x' * 5_000} (in load, m.py line 3)"
    told = load_failure(line(FORMATTERS[0], "%s: %s", NOT_LOADED, cause))
    assert told.startswith("KeyError: xxx")
    assert told.endswith("x (in load, m.py line 3)")
    assert len(told) < 700
