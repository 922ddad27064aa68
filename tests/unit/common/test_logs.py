import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.process.logs import ConsoleFormatter, JsonFormatter, bind, configure
from skysail_testing.examples import examples

log = logging.getLogger("skysail_common.of_this_test")


def record(event: str = "batch sent", level: int = logging.INFO, **extra: object):
    made = logging.makeLogRecord({"name": "some.module", "levelno": level, "msg": event, **extra})
    made.levelname = logging.getLevelName(level)
    return made


def as_json(made: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter("frontend").format(made)
    assert "\n" not in line
    return json.loads(line)


def pairs(made: logging.LogRecord) -> str:
    line = ConsoleFormatter("frontend").format(made)
    return line.partition("batch sent")[2].removeprefix(" ")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Return the root logger without handlers; restore it afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    libraries = [
        logging.getLogger(name) for name in ("grpc", "uvicorn", "uvicorn.access", "asyncio")
    ]
    levels = [library.level for library in libraries]
    root.handlers = []
    yield root
    root.handlers = handlers
    root.setLevel(level)
    for library, old in zip(libraries, levels, strict=True):
        library.setLevel(old)


def test_an_event_is_one_json_object():
    made = record(created=1_700_000_000.25)
    assert as_json(made) == {
        "time": "2023-11-14T22:13:20.250000+00:00",
        "level": "info",
        "service": "frontend",
        "logger": "some.module",
        "event": "batch sent",
    }


def test_json_has_the_keys_of_extra_with_their_types():
    event = as_json(record(size=12, budget_s=0.018, replica="sum:3/0", parts=[1, None], ok=True))
    assert event["size"] == 12
    assert event["budget_s"] == 0.018
    assert event["replica"] == "sum:3/0"
    assert event["parts"] == [1, None]
    assert event["ok"] is True


def test_values_without_json_form_become_text():
    moment = datetime(2024, 6, 1, tzinfo=timezone.utc)
    event = as_json(record(moment=moment, error=ValueError("odd")))
    assert event["moment"] == str(moment)
    assert event["error"] == "odd"


def test_arguments_of_an_event_are_filled_in():
    assert as_json(record("%s of %d", args=("one", 2)))["event"] == "one of 2"


@settings(max_examples=examples(50))
@given(st.text(), st.text())
def test_every_json_event_is_one_line(event, value):
    logged = as_json(record(event.replace("%", "%%"), value=value, args=()))
    assert logged["value"] == value


def traceback_of(error: Exception):
    try:
        raise error
    except Exception as caught:
        return (type(caught), caught, caught.__traceback__)


def test_json_has_the_traceback_under_its_own_key():
    event = as_json(record("call failed", logging.ERROR, exc_info=traceback_of(ValueError("odd"))))
    assert event["level"] == "error"
    assert event["traceback"].startswith("Traceback (most recent call last):\n")
    assert event["traceback"].endswith("ValueError: odd")
    assert "traceback" not in as_json(record())


def test_the_console_has_one_line_for_people():
    made = record("batch sent", logging.WARNING, size=12, replica="sum:3/0")
    local = datetime(2024, 6, 1, 12, 30, 1, 250_000).astimezone()
    made.created = local.timestamp()
    line = ConsoleFormatter("frontend").format(made)
    assert line == (
        f"2024-06-01 12:30:01.250{local.isoformat()[-6:]} warning frontend: batch sent size=12 "
        "replica=sum:3/0"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", "''"),
        ("two words", "'two words'"),
        ("a=b", "'a=b'"),
        ("line\nline", r"'line\nline'"),
        ('say "so"', "'say \"so\"'"),
        (None, "None"),
        (0.5, "0.5"),
        ([1, 2], "'[1, 2]'"),
    ],
)
def test_the_console_quotes_values_with_white_space(value, shown):
    assert pairs(record(key=value)) == f"key={shown}"


def test_the_console_has_the_traceback_below_the_line():
    text = ConsoleFormatter("frontend").format(record(exc_info=traceback_of(ValueError("odd"))))
    first, second, *_, last = text.splitlines()
    assert first.endswith("batch sent")
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: odd"


def test_bound_values_apply_only_inside_the_block():
    assert pairs(record()) == ""
    with bind(model="sum:3"):
        assert pairs(record()) == "model=sum:3"
        assert as_json(record())["model"] == "sum:3"
        with bind(query_id="7"):
            assert pairs(record(size=1)) == "model=sum:3 query_id=7 size=1"
        assert pairs(record()) == "model=sum:3"
    assert pairs(record()) == ""


def test_the_innermost_value_of_a_key_wins():
    with bind(model="sum:3"):
        with bind(model="sum:4"):
            assert pairs(record()) == "model=sum:4"
        assert pairs(record(model="sum:5")) == "model=sum:5"
        assert pairs(record()) == "model=sum:3"


def test_values_are_unbound_by_an_error_too():
    with pytest.raises(ValueError, match="odd"), bind(model="sum:3"):
        raise ValueError("odd")
    assert pairs(record()) == ""


async def test_each_task_has_its_own_bound_values_across_awaits():
    seen: dict[str, list[str]] = {}

    async def work(name: str) -> None:
        with bind(task=name):
            seen[name] = [pairs(record())]
            for _ in range(3):
                await asyncio.sleep(0)
                seen[name].append(pairs(record()))

    with bind(application="app"):
        await asyncio.gather(work("a"), work("b"))
        assert pairs(record()) == "application=app"
    assert seen == {name: [f"application=app task={name}"] * 4 for name in ("a", "b")}


def test_another_thread_has_no_bound_values():
    seen = []
    with bind(model="sum:3"):
        thread = threading.Thread(target=lambda: seen.append(pairs(record())))
        thread.start()
        thread.join()
    assert seen == [""]


def test_configured_loggers_write_json_lines_to_the_stream(root):
    stream = io.StringIO()
    configure("frontend", "info", "json", stream)
    with bind(model="sum:3"):
        log.info("replica is ready", extra={"replica": "sum:3/0"})
    log.debug("not shown")
    log.warning("degraded")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["event"] == "replica is ready"
    assert (first["model"], first["replica"]) == ("sum:3", "sum:3/0")
    assert first["logger"] == log.name
    assert (second["event"], second["level"]) == ("degraded", "warning")


def test_a_second_configuration_replaces_the_first(root):
    first, second = io.StringIO(), io.StringIO()
    configure("frontend", "info", "json", first)
    configure("frontend", "debug", "console", second)
    log.debug("seen")
    assert first.getvalue() == ""
    assert second.getvalue().endswith(" debug   frontend: seen\n")


def test_logs_go_to_standard_error_by_default(root, capsys):
    configure("frontend", "info", "console")
    log.info("seen")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("frontend: seen\n")


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", "WARNING"), ("info", "WARNING"), ("warning", "WARNING"), ("error", "ERROR")],
)
def test_libraries_log_from_warning_on(root, level, expected):
    configure("frontend", level, "console", io.StringIO())
    for library in ("grpc", "uvicorn", "uvicorn.access", "asyncio"):
        assert logging.getLevelName(logging.getLogger(library).level) == expected
