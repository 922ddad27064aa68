"""Commands about models: promote, rollback, logs, models."""

from typing import Any

import click
from rich.markup import escape

from skysail.cli.options import client_of, endpoint_option
from skysail.cli.output import output_option, print_json, print_table
from skysail.descriptions import Version


@click.command()
@click.argument("model")
@click.argument("version")
@endpoint_option
def promote(model: str, version: str, endpoint: str | None) -> None:
    """Make a version the one that answers where none is named.

    \b
    Example:
      skysail promote digits 2
    """
    with client_of(endpoint) as client:
        previous = client.promote(model, version)
    before = f" (before: {previous})" if previous else ""
    click.echo(f"{model}:{version} is the current version{before}")


@click.command()
@click.argument("model")
@endpoint_option
def rollback(model: str, endpoint: str | None) -> None:
    """Go back to the newest earlier version that has a ready replica.

    \b
    Example:
      skysail rollback digits
    """
    with client_of(endpoint) as client:
        version = client.rollback(model)
    click.echo(f"{model}:{version} is the current version")


@click.command()
@click.argument("model")
@click.option("--version", help="Version; the current one if not given.")
@click.option("--replica", type=click.IntRange(0), help="Index of a replica; all if not given.")
@click.option("--tail", "tail_lines", type=click.IntRange(0), default=100, show_default=True)
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added.")
@endpoint_option
def logs(
    model: str,
    version: str | None,
    replica: int | None,
    tail_lines: int,
    follow: bool,
    endpoint: str | None,
) -> None:
    """Show what the replicas of a version wrote.

    \b
    Example:
      skysail logs digits -f
    """
    with client_of(endpoint) as client:
        lines = client.logs(model, version, replica=replica, tail_lines=tail_lines, follow=follow)
        for line in lines:
            click.echo(f"{line.replica_id}  {line.line}")


@click.command()
@endpoint_option
@output_option
def models(endpoint: str | None, output: str) -> None:
    """List models and their versions.

    \b
    Example:
      skysail models
    """
    with client_of(endpoint) as client:
        found = client.models()
    if output == "json":
        print_json(found)
        return
    rows = [
        [
            escape(model.name),
            escape(version.version),
            "[green]current[/]" if version.version == model.current_version else "",
            _ready(version),
            _specs(version.signature.inputs),
            _specs(version.signature.outputs),
        ]
        for model in found
        for version in model.versions
    ]
    print_table("", ["model", "version", "", "ready", "inputs", "outputs"], rows)


def _ready(version: Version) -> str:
    if version.deployment is None:
        return "not deployed"
    text = f"{version.num_ready} of {version.deployment.num_replicas}"
    limits = version.deployment.autoscaling
    return f"{text} ({limits.min_replicas} to {limits.max_replicas})" if limits else text


def _specs(specs: Any) -> str:
    return escape(
        ", ".join(f"{spec.name} {spec.datatype.name} {list(spec.shape)}" for spec in specs)
    )


COMMANDS = (promote, rollback, logs, models)
