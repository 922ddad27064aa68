"""The command `skysail`: its groups, and how errors are told."""

import sys
from typing import NoReturn

import click

from skysail.capture.local_modules import own_frames
from skysail.cli import (
    applications,
    cluster,
    deployments,
    down,
    kubernetes,
    models,
    queries,
    store,
    tuning,
)
from skysail_common import __version__
from skysail_common.errors import SkysailError
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
    cluster,
    down,
    deployments,
    models,
    tuning,
    queries,
    applications,
    store,
    kubernetes,
):
    for command in module.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Run the command; an error is one line on standard error and exit status 1 (usage: 2).

    Where code of the user raised it, the lines below tell where.
    """
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort as error:
        if error.__cause__ is not None and error.__cause__.args:
            click.echo(f"skysail: {error.__cause__}", err=True)
        sys.exit(130)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        _fail(missing)
    except SkysailError as error:
        _fail(error)


def _fail(error: SkysailError) -> NoReturn:
    click.echo(f"skysail: {error.message}", err=True)
    if error.__cause__ is not None:
        click.echo(own_frames(error.__cause__), err=True, nl=False)
    sys.exit(1)
