"""The command down: it stops a local cluster, or removes one on Kubernetes after a question."""

import asyncio
import os
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from skysail.cli.kubernetes import KUBERNETES, kubernetes_options, options_of
from skysail.cli.options import client_of, data_dir_of, data_dir_option
from skysail.clusters.kubernetes.note import KubernetesNote, remove_note
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.local.cluster import stop_cluster
from skysail.settings import CLUSTER_FILE, ClientSettings
from skysail_common.errors import FailedPrecondition, SkysailError

_NAMES_A_CLUSTER = ("namespace", "context", "kubernetes_proxy_addr")
_STORE_TIMEOUT_S = 5.0


@click.command()
@data_dir_option
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster.")
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
    "store lost what management knows.",
)
@click.pass_context
def down(
    arguments: click.Context,
    data_dir: Path | None,
    cluster: str,
    container_manager: str,
    namespace: str,
    context: str,
    kubernetes_proxy_addr: str,
    delete_data: bool,
    yes: bool,
) -> None:
    """Stop the cluster that was started last from here.

    Its replicas stop too. A cluster on Kubernetes is removed there, after a question. Its claims and Secrets stay, so that what was
    registered and deployed comes back with the next `skysail up`, as it does on this machine.

    \b
    Example:
      skysail down
      skysail down --yes --delete-data
      skysail down --container-manager kubernetes --namespace models --context staging
    """
    directory = data_dir_of(data_dir)
    given = {
        name
        for name in (*_NAMES_A_CLUSTER, "cluster")
        if arguments.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if container_manager not in ("", KUBERNETES):
        raise click.UsageError(
            f"cannot use --container-manager {container_manager} here: only kubernetes is named; "
            "leave the option out for a cluster of this machine"
        )
    if container_manager == KUBERNETES:
        options = options_of(
            namespace=namespace,
            cluster=cluster,
            context=context,
            proxy_addr=kubernetes_proxy_addr,
        )
        _remove(directory, options, "", delete_data, yes)
        return
    if named := given.intersection(_NAMES_A_CLUSTER):
        flag = min(named).replace("_", "-")
        raise click.UsageError(f"--{flag} goes with --container-manager kubernetes")
    note = KubernetesNote.read(directory)
    if note is not None:
        if "cluster" in given and cluster != note.options.cluster:
            raise FailedPrecondition(
                f"cannot remove cluster {cluster!r}: {directory} was used last for {note.where}"
            )
        _remove(directory, note.options, note.anchor_uid, delete_data, yes)
        return
    if delete_data:
        raise click.UsageError(
            "--delete-data is for a cluster on Kubernetes; the data of one on this machine are "
            f"the directory {directory}: delete it after 'skysail down'"
        )
    if not yes:
        _check_store(directory)
    environment = dict(os.environ)  # noqa: TID251 - inherited
    was_running = asyncio.run(stop_cluster(directory, cluster, environment))
    if not was_running:
        raise FailedPrecondition(f"no cluster runs in {directory}")
    click.echo("stopped")


def _check_store(directory: Path) -> None:
    """Check that stopping a cluster loses nothing that only its management knows.

    Raises:
        FailedPrecondition: the store answers, and is not usable.
    """
    settings = ClientSettings(data_dir=directory)
    endpoint = settings.noted("socket") or settings.noted("management")
    if not endpoint:
        return
    try:
        with client_of(endpoint, _STORE_TIMEOUT_S) as client:
            found = client.status()
    except SkysailError:
        # A management that does not answer has nothing to restore from, and must be stoppable.
        return
    if found.is_store_reachable and found.store_problem:
        raise FailedPrecondition(
            f"cannot stop the cluster in {directory}: {found.store_problem.rstrip('.')}; its management "
            "has the only copy of what is registered, which ends with it: run 'skysail store "
            "restore' first, or pass --yes to give it up"
        )


def _remove(
    directory: Path, options: KubernetesOptions, anchor_uid: str, deletes_data: bool, yes: bool
) -> None:
    """Remove a cluster from Kubernetes, and forget it in the data directory that notes it."""
    # The imports are here because the base install lacks the client of Kubernetes.
    from skysail.clusters.kubernetes.removal import Removed
    from skysail.clusters.kubernetes.services import KubernetesServices

    services = KubernetesServices(options)
    subject = f"cluster {options.cluster!r}"

    async def run() -> Removed:
        try:
            where = await services.open()
            _ask(f"{subject} in {where}", deletes_data, yes)
            return await services.remove(deletes_data=deletes_data, anchor_uid=anchor_uid)
        finally:
            await services.close()

    removed = asyncio.run(run())
    _forget(directory, options, anchor_uid)
    if not removed.was_there:
        raise FailedPrecondition(f"{subject} does not run in namespace {options.namespace!r}")
    click.echo(f"removed {subject} from namespace {options.namespace!r}")
    if removed.kept:
        click.echo(f"kept: {', '.join(removed.kept)}; --delete-data deletes them")
    for path in removed.directories:
        click.echo(f"the node still has the directory {path}")


def _ask(what: str, deletes_data: bool, yes: bool) -> None:
    """Check that the operator confirms the removal of the cluster.

    Raises:
        FailedPrecondition: nobody can be asked.
        Abort: the answer is no.
    """
    fate = "are deleted, with all that was deployed" if deletes_data else "stay"
    text = f"{what} is removed with its replicas; its claims and Secrets {fate}."
    click.echo(text, err=True)
    if yes:
        return
    try:
        click.confirm("Remove it?", abort=True, err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise FailedPrecondition(
            f"cannot remove {what}: nobody said yes on standard input; pass --yes in scripts"
        ) from None


def _forget(directory: Path, options: KubernetesOptions, anchor_uid: str) -> None:
    note = KubernetesNote.read(directory)
    if note is None:
        return
    same = (note.options.namespace, note.options.cluster, note.options.context)
    if anchor_uid or same == (options.namespace, options.cluster, options.context):
        remove_note(directory)
        (directory / CLUSTER_FILE).unlink(missing_ok=True)


COMMANDS = (down,)
