"""The group kubernetes: the manifests that ship with Skysail."""

import shlex
from pathlib import Path

import click

from skysail.clusters.kubernetes.manifest_files import copy_manifests, manifests_directory
from skysail_common import __version__


@click.group()
def kubernetes() -> None:
    """Prepare a cluster on Kubernetes.

    \b
    Example:
      skysail kubernetes manifests k8s
    """


@kubernetes.command()
@click.argument("directory", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--force",
    is_flag=True,
    help="Write into a directory that is not empty: replace files of the same name, keep the others.",
)
def manifests(directory: Path | None, force: bool) -> None:
    """Copy the kustomize manifests of this version to DIRECTORY.

    Without DIRECTORY it prints where the manifests are installed. After an upgrade, --force renews
    a copy and keeps the overlays that you added to it.

    \b
    Example:
      skysail kubernetes manifests
      skysail kubernetes manifests k8s
      skysail kubernetes manifests k8s --force
    """
    if directory is None:
        if force:
            raise click.UsageError("--force needs a DIRECTORY to write to")
        click.echo(manifests_directory())
        return
    copied = copy_manifests(directory, force=force)
    same = f", {copied.unchanged} unchanged" if copied.unchanged else ""
    click.echo(f"{directory}: manifests of Skysail {__version__}, {copied.written} written{same}")
    local = shlex.quote(str(directory / "overlays" / "local"))
    example = shlex.quote(str(directory / "examples" / "eks"))
    blue = shlex.quote(str(directory / "examples" / "blue"))
    mine = shlex.quote(str(directory / "examples" / "mine"))
    click.echo(
        "\nStart a cluster with an overlay:\n"
        f"  skysail up --container-manager kubernetes --overlay {local}\n"
        "\nTo adapt it, write an overlay of your own and name that one:\n"
        f"  cp -r {example} {mine}\n"
        f"  kubectl diff -k {mine}\n"
        "\nThe example blue reads files outside its folder, which kubectl must allow:\n"
        f"  kubectl kustomize --load-restrictor LoadRestrictionsNone {blue}"
    )


COMMANDS = (kubernetes,)
