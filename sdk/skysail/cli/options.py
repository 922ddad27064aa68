"""Options of several commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from skysail.client import Client
from skysail.sentinels import NOT_GIVEN
from skysail.settings import ClientSettings, absolute
from skysail_common.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])


def endpoint_option(command: F) -> F:
    """Add `--endpoint` to a command."""
    return click.option(
        "--endpoint",
        metavar="HOST:PORT",
        help="Endpoint of management. [default: $SKYSAIL_ENDPOINT, else the local cluster]",
    )(command)


def query_endpoint_option(command: F) -> F:
    """Add `--query-endpoint` to a command."""
    return click.option(
        "--query-endpoint",
        metavar="HOST:PORT",
        help="Endpoint of the gRPC services of a frontend. [default: $SKYSAIL_QUERY_ENDPOINT, else "
        "management names one]",
    )(command)


def data_dir_option(command: F) -> F:
    """Add `--data-dir` to a command."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="Directory of the local cluster. [default: $SKYSAIL_DATA_DIR, else "
        "~/.local/share/skysail]",
    )(command)


def find_data_dir(data_dir: Path | None) -> Path:
    """Return the data directory of a command: the option, or else the setting."""
    return absolute(data_dir or ClientSettings().data_dir)


def open_client(
    endpoint: str | None, timeout_s: float = 30.0, query_endpoint: str | None = None
) -> Client:
    """Return a client of the cluster that the options of a command name."""
    return Client(endpoint, query_endpoint=query_endpoint, timeout_s=timeout_s)


def parse_default_output(text: str | None) -> Any:
    """Return the value of `--default-output`; NOT_GIVEN without it.

    Raises:
        InvalidInput: the text is not JSON.
    """
    if text is None:
        return NOT_GIVEN
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"cannot use the default output: it is not JSON: {error}") from error
