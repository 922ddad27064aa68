import json
from dataclasses import dataclass, field
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from skysail.cli import output
from skysail.cli.output import plain, print_json, print_table, state
from skysail_common.tensors import DataType, TensorSpec
from skysail_testing.examples import examples


@dataclass(frozen=True)
class Inner:
    """A value inside another."""

    sizes: tuple[int, ...]
    hidden: int = field(default=1, repr=False)


@dataclass(frozen=True)
class Outer:
    """A value with others inside."""

    name: str
    inner: list[Inner]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=examples(30))
@given(json_values)
def test_json_values_are_unchanged(value):
    assert plain(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array(["a", b"b"], dtype=object), ["a", "b"]),
        (b"bytes", "bytes"),
        (b"\xff", "\ufffd"),
        ((1, (2, 3)), [1, [2, 3]]),
        ({1: np.int8(2), "a": (b"b",)}, {"1": 2, "a": ["b"]}),
        (DataType.FP32, "FP32"),
        (datetime(2024, 6, 1, tzinfo=timezone.utc), "2024-06-01T00:00:00+00:00"),
        (Outer("a", [Inner((1, 2))]), {"name": "a", "inner": [{"sizes": [1, 2]}]}),
        (
            TensorSpec("x", DataType.FP32, (-1, 3)),
            {"name": "x", "datatype": "FP32", "shape": [-1, 3], "content": "BINARY"},
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_other_values_become_what_json_holds(value, expected):
    found = plain(value)
    assert found == expected
    assert json.loads(json.dumps(found)) == expected


def test_json_is_printed_for_programs(capsys):
    print_json([Inner((1,))])
    assert json.loads(capsys.readouterr().out) == [{"sizes": [1]}]


def test_a_piped_table_shows_every_cell_on_one_line(capsys):
    print_table("title", ["first", "second"], [["a" * 60, "b" * 60], ["[green]ok[/]", "d"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "title"
    assert lines[1].split() == ["first", "second"]
    assert lines[2].split() == ["a" * 60, "b" * 60]
    assert lines[3].split() == ["ok", "d"]


def test_a_table_without_title_and_header_begins_with_its_first_row(capsys):
    print_table("", ["", ""], [["store", "[green]reachable[/]"], ["frontends", "2"]])
    assert capsys.readouterr().out == "store      reachable\nfrontends  2\n"


def test_a_state_has_its_colour_and_an_unknown_one_none():
    assert state("READY") == "[green]READY[/]"
    assert state("FAILED") == "[red]FAILED[/]"
    assert state("[odd]") == r"\[odd]"


URL = "http://127.0.0.1:18002/metrics/" + "x" * 40


def test_output_that_is_piped_is_never_folded(capsys):
    long = "word " * 400
    print_table("", ["where", "what"], [[URL, long]])
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_folds_no_url_however_narrow_it_is(capsys, monkeypatch, columns):
    monkeypatch.setattr(output, "console", lambda: Console(width=columns, highlight=False))
    print_table("", ["where", "what"], [[URL, "some words that may be folded " * 5]], whole=(0,))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{URL}  ")
    least = len(URL) + 2 + 16 + 2
    assert max(map(len, lines)) <= max(columns, least)
