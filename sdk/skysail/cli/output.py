"""How results are shown: tables for people, JSON for programs."""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

F = TypeVar("F", bound=Callable[..., Any])

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
        help="How to show the result.",
    )(command)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(plain(value), indent=2))


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
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


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; cells may have rich's markup."""
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        show_header=any(columns),
    )
    for column in columns:
        table.add_column(column, header_style="dim", overflow="fold")
    for row in rows:
        table.add_row(*row)
    screen = console()
    with screen.capture() as shown:
        screen.print(table)
    # Without the blanks that fill the last column.
    lines = shown.get().splitlines()
    click.echo("\n".join(line.rstrip() for line in lines))


def console() -> Console:
    """Return the console of standard output; as wide as need be where that is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def state(name: str) -> str:
    """Return a state with its colour."""
    color = STATE_COLORS.get(name)
    return f"[{color}]{name}[/]" if color else escape(name)
