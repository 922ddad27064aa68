"""The command down: it stops or removes a cluster."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from skysail.cli.cluster_options import cluster_option, kubernetes_options
from skysail.cli.options import data_dir_option, find_data_dir
from skysail.clusters.back_ends import KUBERNETES, back_end, last_back_end
from skysail_common.errors import FailedPrecondition

_PLACES = ("namespace", "context", "kubernetes_proxy_addr")


@click.command()
@data_dir_option
@cluster_option
@click.option(
    "--container-manager",
    default="",
    help="kubernetes, for a cluster there that was not started from this data directory.",
)
@kubernetes_options
@click.option(
    "--delete-data",
    is_flag=True,
    help="Kubernetes: delete claims, volumes and Secrets too, and with them everything that was "
    "registered and deployed.",
)
@click.option(
    "--yes",
    is_flag=True,
    help="Remove a cluster on Kubernetes without a question; stop one of this machine even if its "
    "store lost records that management has.",
)
@click.pass_context
def down(
    command: click.Context,
    /,
    data_dir: Path | None,
    container_manager: str,
    delete_data: bool,
    yes: bool,
    **options: Any,
) -> None:
    """Stop the cluster of this data directory, with its replicas.

    If several were started from the directory, that is the last one. A cluster on Kubernetes is removed
    after a question. Its data stay, on this machine and on Kubernetes, so that the next `skysail up`
    restores all models and applications.

    \b
    Example:
      skysail down
      # This form works on Kubernetes; it deletes all data and skips the question:
      skysail down --yes --delete-data
      skysail down --container-manager kubernetes --namespace models --context staging
    """
    directory = find_data_dir(data_dir)
    flags = {
        name: value
        for name, value in options.items()
        if command.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if container_manager not in ("", KUBERNETES):
        raise click.UsageError(
            f"cannot use --container-manager {container_manager}: down knows kubernetes only; omit the "
            "option for a cluster of this machine"
        )
    environment = dict(os.environ)  # noqa: TID251 - inherited
    if container_manager:
        cluster = back_end(container_manager).from_flags(directory, flags, environment)
    else:
        if named := flags.keys() & set(_PLACES):
            flag = min(named).replace("_", "-")
            raise click.UsageError(f"--{flag} goes with --container-manager kubernetes")
        last = back_end(last_back_end(directory))
        cluster = last.started_last(directory, flags, environment)
    if delete_data and not cluster.can_delete_data:
        raise click.UsageError(
            "--delete-data is for a cluster on Kubernetes; the data of one on this machine are "
            f"the directory {directory}: delete it after 'skysail down'"
        )
    lines = asyncio.run(cluster.down(_confirmation(yes), deletes_data=delete_data, is_forced=yes))
    for line in lines:
        click.echo(line)


def _confirmation(is_confirmed: bool) -> Callable[[str, str], None]:
    """Return a function that announces a removal, and asks unless it is confirmed already."""

    def confirm(subject: str, consequence: str) -> None:
        click.echo(f"{subject} {consequence}", err=True)
        if is_confirmed:
            return
        try:
            click.confirm("Remove it?", abort=True, err=True)
        except click.Abort:
            if sys.stdin.isatty():
                raise
            raise FailedPrecondition(
                f"cannot remove {subject}: nobody said yes on standard input; pass --yes in scripts"
            ) from None

    return confirm


COMMANDS = (down,)
