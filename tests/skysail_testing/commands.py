"""The command line, as a process of its own and, much quicker, in the process of the tests."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click
import pytest
from click.testing import CliRunner

from skysail.cli.main import main


def skysail_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "skysail", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def skysail_in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, where its imports are done."""
    done = CliRunner().invoke(_Program("skysail"), arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


class _Program(click.Command):
    """What a process runs, errors and exit status included."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["skysail", *(args or ())])
            main()
