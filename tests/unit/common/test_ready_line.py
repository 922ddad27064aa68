import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.process.ready_line import parse_ready_line, print_ready_line
from skysail_testing.examples import examples

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=10)


def test_a_ready_line_has_the_bound_addresses(capsys):
    print_ready_line("frontend", grpc="127.0.0.1:8001", http="[::1]:8000")
    line = capsys.readouterr().out
    assert line == "listening frontend grpc=127.0.0.1:8001 http=[::1]:8000\n"
    assert parse_ready_line(line) == {"grpc": "127.0.0.1:8001", "http": "[::1]:8000"}


def test_a_ready_line_is_an_event_among_json_events(capsys):
    bound = {"grpc": "127.0.0.1:8001", "http": "[::1]:8000", "name": "a b"}
    print_ready_line("frontend", "json", **bound)
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    event = json.loads(line)
    assert (event["service"], event["level"], event["event"]) == ("frontend", "info", "listening")
    assert event["addresses"] == bound
    assert parse_ready_line(line) == bound


@settings(max_examples=examples(50))
@given(st.dictionaries(words.map(lambda word: word.replace("=", "-")), words, max_size=4))
def test_bound_addresses_are_read_back(bound):
    line = "listening service " + " ".join(f"{name}={value}" for name, value in bound.items())
    assert parse_ready_line(line) == bound


def test_a_value_may_contain_an_equals_sign():
    assert parse_ready_line("listening x socket=unix:/a=b") == {"socket": "unix:/a=b"}


def test_a_service_that_bound_nothing_is_ready_too():
    assert parse_ready_line("listening management\n") == {}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "listening",
        "listening\n",
        "LISTENING x a=1",
        "not listening x",
        "é\0",
        "{",
        "{}",
        '{"event": "draining", "addresses": {}}',
        '{"event": "listening"}',
        '{"event": "listening", "addresses": 1}',
    ],
)
def test_any_other_line_is_not_a_ready_line(line):
    assert parse_ready_line(line) is None


@settings(max_examples=examples(50))
@given(st.text())
def test_any_line_can_be_parsed(line):
    parse_ready_line(line)
