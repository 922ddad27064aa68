"""Confirmation by the user before a removal."""

import sys

import click


def confirm(question: str) -> None:
    """Ask a question; end the command with exit status 1 unless the answer is yes."""
    if not click.confirm(question, err=True):
        click.echo("nothing was changed", err=True)
        sys.exit(1)
