"""The argument that names a version: `MODEL:VERSION`, or `MODEL` alone."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Target(NamedTuple):
    """A model, and optionally one of its versions."""

    model: str
    version: str | None

    def __str__(self) -> str:
        return self.model if self.version is None else f"{self.model}:{self.version}"


def target_argument(
    metavar: str = "MODEL[:VERSION]", *, needs_version: bool = False
) -> Callable[[F], F]:
    """Add an argument `target` to a command.

    Args:
        metavar: Name of the argument in the help.
        needs_version: True if the version is required.
    """

    def parse(context: click.Context, parameter: click.Parameter, text: str) -> Target:
        model, colon, version = text.partition(":")
        if not model:
            raise click.BadParameter(f"{text!r} names no model; give it as {metavar}")
        if colon and not version:
            raise click.BadParameter(f"{text!r} has no version after the colon")
        if needs_version and not version:
            raise click.BadParameter(f"{text!r} names no version; give it as {model}:VERSION")
        return Target(model, version or None)

    return click.argument("target", metavar=metavar, callback=parse)
