"""The command `skysail` with its groups, and the output of errors."""

import json
import sys
from typing import NoReturn

import click

from skysail.artifact.local_modules import own_frames
from skysail.cli import (
    applications,
    checks,
    deployments,
    down,
    kubernetes,
    manifests,
    models,
    queries,
    status,
    store,
    tuning,
    up,
)
from skysail.cli.output import ErrorFormat
from skysail_common import __version__
from skysail_common.errors import SkysailError, Status
from skysail_common.extras import missing_extra


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="skysail")
def cli() -> None:
    """Deploy Python models and query them.

    \b
    Example:
      skysail up --detach
      skysail deploy mymodel:predict --name digits --version 1 --example mymodel:example
      skysail predict digits '[0, 3, 12]'
    """


for module in (
    up,
    status,
    down,
    deployments,
    checks,
    models,
    tuning,
    queries,
    applications,
    store,
    kubernetes,
    manifests,
):
    for command in module.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Run the command; errors go to standard error, with exit status 1 (usage: 2, Ctrl-C: 130).

    An error is one line, followed by the traceback in the code of the user, if any. With
    `--output json` it is one JSON object, except for a usage error.
    """
    errors = ErrorFormat()
    try:
        cli(standalone_mode=False, obj=errors)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort as error:
        if error.__cause__ is not None and error.__cause__.args:
            _show(str(error.__cause__), Status.CANCELLED, "KeyboardInterrupt", "", errors)
        sys.exit(130)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        _fail(missing, errors)
    except SkysailError as error:
        _fail(error, errors)


def _fail(error: SkysailError, errors: ErrorFormat) -> NoReturn:
    frames = "" if error.__cause__ is None else own_frames(error.__cause__)
    _show(error.message, error.status, type(error).__name__, frames, errors)
    sys.exit(1)


def _show(message: str, status: Status, reason: str, frames: str, errors: ErrorFormat) -> None:
    """Write an error to standard error."""
    if not errors.is_json:
        click.echo(f"skysail: {message}", err=True)
        click.echo(frames, err=True, nl=False)
        return
    facts = {"error": message, "status": status.name, "reason": reason}
    if frames:
        facts["traceback"] = frames
    click.echo(json.dumps(facts), err=True)
