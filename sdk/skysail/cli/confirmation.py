"""Questions to the user before something is taken away."""

import sys

import click


def confirm(question: str) -> None:
    """Ask a question; anything but a yes ends the command with exit status 1."""
    if not click.confirm(question, err=True):
        click.echo("nothing was changed", err=True)
        sys.exit(1)
