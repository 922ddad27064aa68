"""Output of results, as tables for people and JSON for programs."""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

F = TypeVar("F", bound=Callable[..., Any])

_UNLIMITED = 100_000
_GAP = 2
_NARROW = 16

STATE_COLORS = {
    "READY": "green",
    "FAILED": "red",
    "PENDING": "yellow",
    "STARTING": "yellow",
    "DRAINING": "yellow",
}


def output_option(command: F) -> F:
    """Add `--output table|json` to a command."""
    return click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        callback=_note_format,
        help="Format of the result, and of an error.",
    )(command)


@dataclasses.dataclass
class ErrorFormat:
    """The output format of an error, stored as the object of the click context."""

    is_json: bool = False


def _note_format(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if (errors := context.find_object(ErrorFormat)) is not None:
        errors.is_json = value == "json"
    return value


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(plain(value), indent=2))


def plain(value: Any) -> Any:
    """Return a value in types that JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.repr]
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    whole: Collection[int] = (0,),
    yielding: Collection[int] = (),
) -> None:
    """Print a table; cells may contain markup of rich.

    Args:
        title: Line above the table; none if empty.
        columns: Headings.
        rows: Cells.
        whole: Columns whose cells are never folded, such as names and URLs.
        yielding: Columns of `whole` that may fold, if one is wider than half of a terminal that is too
            narrow for the table.
    """
    screen = console()
    if _least_width(columns, rows, whole) > screen.width:
        # A long name would widen every row, and the terminal would wrap them all.
        widths, half = _widths(columns, rows), screen.width // 2
        whole = [index for index in whole if index not in yielding or widths[index] <= half]
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        table.add_column(column, header_style="dim", overflow="fold", no_wrap=index in whole)
    for row in rows:
        table.add_row(*row)
    # A table may be wider than the terminal, because cut cells are worse.
    screen.width = max(screen.width, _least_width(columns, rows, whole))
    with screen.capture() as shown:
        screen.print(table)
    # Strip the blanks that fill the last column.
    lines = shown.get().splitlines()
    click.echo("\n".join(line.rstrip() for line in lines))


def console() -> Console:
    """Return the console of standard output; its width is unlimited unless it is a terminal."""
    return Console(width=None if sys.stdout.isatty() else _UNLIMITED, highlight=False)


def _least_width(
    columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Collection[int]
) -> int:
    """Return the width for all whole columns and a few words of each other one."""
    return sum(
        _GAP + max(len(columns[index]), width if index in whole else min(width, _NARROW))
        for index, width in enumerate(_widths(columns, rows))
    )


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max((Text.from_markup(row[index]).cell_len for row in rows), default=0)
        for index in range(len(columns))
    ]


def state(name: str) -> str:
    """Return the markup of a state in its colour."""
    color = STATE_COLORS.get(name)
    return f"[{color}]{name}[/]" if color else escape(name)
