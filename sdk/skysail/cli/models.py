"""Commands about models: promote, rollback, logs, models, delete."""

import sys
from collections.abc import Sequence

import click
from rich.markup import escape

from skysail.cli.confirmation import confirm
from skysail.cli.options import endpoint_option, open_client
from skysail.cli.output import output_option, print_json, print_table
from skysail.cli.version_targets import Target, target_argument
from skysail.descriptions import Version, inputs_in_words, outputs_in_words
from skysail_common.replica_description import describe_differences
from skysail_common.tensors import Content, Signature, TensorSpec

_LONG = 70
"""Characters of a signature, above which a list of models has the number of its parts."""


@click.command()
@target_argument("MODEL:VERSION", needs_version=True)
@endpoint_option
def promote(target: Target, endpoint: str | None) -> None:
    """Make a version the current one.

    The current version answers queries that name none.

    \b
    Example:
      skysail promote digits:2
    """
    with open_client(endpoint) as client:
        previous = client.promote(target.model, str(target.version))
    before = f" (before: {previous})" if previous else ""
    click.echo(f"{target} is the current version{before}")


@click.command()
@click.argument("model")
@endpoint_option
def rollback(model: str, endpoint: str | None) -> None:
    """Go back to the newest earlier version with a ready replica.

    \b
    Example:
      skysail rollback digits
    """
    with open_client(endpoint) as client:
        version = client.rollback(model)
    click.echo(f"{model}:{version} is the current version")


@click.command()
@target_argument()
@click.option("--replica", type=click.IntRange(0), help="Index of a replica. [default: all]")
@click.option(
    "--tail",
    "tail_lines",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Last lines of each log to begin with.",
)
@click.option("--follow", "-f", is_flag=True, help="Continue with new lines.")
@endpoint_option
def logs(
    target: Target,
    replica: int | None,
    tail_lines: int,
    follow: bool,
    endpoint: str | None,
) -> None:
    """Show the logs of the replicas of a version.

    Without a version, the command shows the logs of the current one.

    \b
    Example:
      skysail logs digits -f
      skysail logs digits:1 --tail 20
    """
    with open_client(endpoint) as client:
        lines = client.logs(*target, replica=replica, tail_lines=tail_lines, follow=follow)
        for line in lines:
            click.echo(f"{line.replica_id}  {line.line}")


@click.command()
@click.argument("name", required=False)
@endpoint_option
@output_option
def models(name: str | None, endpoint: str | None, output: str) -> None:
    """List models and their versions, or only those of one model.

    The list counts the inputs and outputs of a version that has many; the command for one model names
    them all.

    \b
    Example:
      skysail models
      skysail models digits
    """
    with open_client(endpoint) as client:
        found = client.models() if name is None else [client.describe_model(name)]
    if output == "json":
        print_json(found)
        return
    rows = [
        [
            escape(model.name),
            escape(version.version),
            "[green]current[/]" if version.version == model.current_version else "",
            _ready(version),
            escape(_inputs(version.signature, is_whole=name is not None)),
            escape(_outputs(version.signature, is_whole=name is not None)),
        ]
        for model in found
        for version in model.versions
    ]
    columns = ["model", "version", "", "ready", "inputs", "outputs"]
    print_table("", columns, rows, whole=(0, 1, 2, 3))
    for model in found:
        for version in model.versions:
            if text := describe_differences(version.package_differences):
                click.echo(f"{model.name}:{version.version}: {text}")


@click.command()
@target_argument()
@click.option("--yes", "-y", "is_confirmed", is_flag=True, help="Skip the question.")
@endpoint_option
def delete(target: Target, is_confirmed: bool, endpoint: str | None) -> None:
    """Remove a version, or a model with all its versions, for good.

    A deployed version is refused; undeploy it first. Artifacts that no other version uses are removed
    too.

    \b
    Example:
      skysail delete digits:1
      skysail delete digits --yes
    """
    if not is_confirmed and sys.stdin.isatty():
        what = target if target.version else f"{target.model} with all its versions"
        confirm(f"Remove {what} for good?")
    with open_client(endpoint) as client:
        client.unregister_model(*target)
    click.echo(f"{target} is removed")


def _inputs(signature: Signature, *, is_whole: bool) -> str:
    words = inputs_in_words(signature)
    if is_whole or len(words) <= _LONG:
        return words
    number = _number(signature.inputs)
    return (
        f"a data frame of {signature.frame} with {number} columns"
        if signature.frame
        else f"{number} inputs"
    )


def _outputs(signature: Signature, *, is_whole: bool) -> str:
    words = outputs_in_words(signature)
    return words if is_whole or len(words) <= _LONG else f"{_number(signature.outputs)} outputs"


def _number(specs: Sequence[TensorSpec]) -> int:
    return sum(spec.content is not Content.NULL_MASK for spec in specs)


def _ready(version: Version) -> str:
    if version.deployment is None:
        return "not deployed"
    text = f"{version.num_ready} of {version.deployment.num_replicas}"
    limits = version.deployment.autoscaling
    return f"{text} ({limits.min_replicas} to {limits.max_replicas})" if limits else text


COMMANDS = (promote, rollback, logs, models, delete)
