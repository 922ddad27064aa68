"""Commands about deployments: deploy, start, scale, undeploy."""

import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import click

from skysail.calls.promotion_warning import SkysailWarning
from skysail.cli.confirmation import confirm
from skysail.cli.object_references import load_object, load_source
from skysail.cli.options import endpoint_option, open_client, parse_default_output
from skysail.cli.output import output_option, plain, print_json
from skysail.cli.version_targets import Target, target_argument
from skysail.descriptions import Version
from skysail_common.errors import ModelInUse

F = TypeVar("F", bound=Callable[..., Any])

_AS_IS = "[default: unchanged; 1 for a new deployment]"


def _replica_options(command: F) -> F:
    for option in (
        click.option(
            "--gpus",
            type=click.FloatRange(0),
            help="GPUs that only one replica uses, or below 1 a fraction of one.",
        ),
        click.option("--cpus", type=click.FloatRange(0), help="CPUs of a replica, such as 0.5."),
        click.option("--memory-mib", type=click.IntRange(0), help="Memory of a replica in MiB."),
        click.option("--max-batch-size", type=click.IntRange(1), help="Most rows of one batch."),
        click.option(
            "--start-timeout-s",
            type=click.FloatRange(0, min_open=True),
            help="Longest time from start to ready.",
        ),
        click.option(
            "--warm-up/--no-warm-up",
            default=None,
            help="Call the function on its example before a replica is ready.",
        ),
    ):
        command = option(command)
    return command


class _NumberCommand(click.Command):
    """A command with a number as argument, because click parses a negative one as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for text in args:
            if re.fullmatch(r"-\d+", text):
                raise click.UsageError(f"{text} is not in the range x>=0.", ctx)
        return super().parse_args(ctx, args)


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option("--name", required=True, help="Name of the model.")
@click.option(
    "--version",
    help="Version, such as 1 or 1.0. [default: the one with the same content, else the next number]",
)
@click.option(
    "--example",
    metavar="MODULE:NAME",
    help="Input with its batch axis; it sets names, types and shapes.",
)
@click.option(
    "--examples",
    metavar="MODULE:NAME",
    help="A list of such inputs; an axis whose size differs may have any size.",
)
@click.option(
    "--input-type",
    type=click.Choice(["integers", "floats", "doubles", "bytes", "strings"]),
    help="Type of the elements, for a function that takes a list; in place of an example.",
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Look for mistakes, with two rows or with sample inputs.",
)
@click.option(
    "--batch/--no-batch",
    default=True,
    show_default=True,
    help="Call the function with batches, or with one input at a time.",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(1),
    help="Most calls side by side: coroutines, or with --no-batch threads.  [default: 64, or 1]",
)
@click.option("--method", help="Method that answers queries, such as predict_proba.")
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="NAME=PATH",
    help="File or folder that travels with the model; repeatable.",
)
@click.option(
    "--code",
    multiple=True,
    metavar="PATH",
    help="Module or package that travels with the model; repeatable.",
)
@click.option("--num-replicas", type=click.IntRange(1), help=f"Number of replicas. {_AS_IS}")
@click.option("--pkg", "pkgs", multiple=True, help="Package that pip installs; repeatable.")
@click.option(
    "--requirements",
    type=click.Path(dir_okay=False, exists=True),
    help="Requirements file with packages to install.",
)
@click.option(
    "--promote/--no-promote",
    default=None,
    help="Make the version current once it is ready. [default: if it is new]",
)
@click.option("--app", help="Application to register and route to the model when it is ready.")
@click.option(
    "--slo-ms",
    type=click.FloatRange(0, min_open=True),
    help="Promised latency of the application in milliseconds.  [default: 100]",
)
@click.option(
    "--default-output",
    metavar="JSON",
    help="Answer of the application if no prediction is in time.",
)
@_replica_options
@endpoint_option
@output_option
def deploy(
    source: str,
    name: str,
    version: str | None,
    example: str | None,
    examples: str | None,
    input_type: str | None,
    method: str | None,
    files: tuple[str, ...],
    code: tuple[str, ...],
    check: bool,
    batch: bool,
    max_concurrency: int | None,
    num_replicas: int | None,
    pkgs: tuple[str, ...],
    requirements: str | None,
    promote: bool | None,
    app: str | None,
    slo_ms: float | None,
    default_output: str | None,
    max_batch_size: int | None,
    memory_mib: int | None,
    cpus: float | None,
    gpus: float | None,
    start_timeout_s: float | None,
    warm_up: bool | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Deploy a version of a model.

    SOURCE is the MODULE:NAME of a function, an object or a class, the path of a model, or a URI of MLflow. A repeated command changes nothing. Options that are not given keep their deployed values.

    \b
    Example:
      skysail deploy mymodel:predict --name digits --example mymodel:example
      skysail deploy mymodel:total --name sum --version 1.0 --input-type doubles --num-replicas 2
      skysail deploy mymodel:total --name sum --input-type doubles --app sums --slo-ms 20
      skysail deploy models:/fraud@champion --name fraud
    """
    loaded = load_source(source)
    if sum(given is not None for given in (example, examples, input_type)) > 1:
        raise click.UsageError("give one of --example, --examples and --input-type")
    with open_client(endpoint) as client, warnings.catch_warnings():
        # The last line of the output has the same text.
        warnings.simplefilter("ignore", SkysailWarning)
        found = client.deploy(
            loaded,
            name=name,
            version=version,
            example=None if example is None else load_object(example, "example"),
            examples=None if examples is None else load_object(examples, "examples"),
            input_type=input_type,
            method=method,
            files=parse_files(files),
            code=code,
            check=check,
            batch=batch,
            max_concurrency=max_concurrency,
            num_replicas=num_replicas,
            pkgs_to_install=pkgs,
            requirements=requirements,
            promote=promote,
            max_batch_size=max_batch_size,
            memory_mib=memory_mib,
            cpus=cpus,
            gpus=gpus,
            start_timeout_s=start_timeout_s,
            warm_up=warm_up,
            application=app,
            slo_ms=slo_ms,
            default_output=parse_default_output(default_output),
        )
    _print_version(found, output)


def parse_files(given: tuple[str, ...]) -> dict[str, str]:
    """Return the paths of `--file` by name."""
    pairs = [each.partition("=") for each in given]
    if not all(name and path for name, _, path in pairs):
        raise click.UsageError(
            "--file must have the form NAME=PATH, such as weights.pt=out/best.pt"
        )
    return {name: path for name, _, path in pairs}


@click.command()
@target_argument()
@click.option("--num-replicas", type=click.IntRange(1), help=f"Number of replicas. {_AS_IS}")
@click.option("--promote", is_flag=True, help="Make the version current once it is ready.")
@_replica_options
@endpoint_option
@output_option
def start(
    target: Target,
    num_replicas: int | None,
    promote: bool,
    max_batch_size: int | None,
    memory_mib: int | None,
    cpus: float | None,
    gpus: float | None,
    start_timeout_s: float | None,
    warm_up: bool | None,
    endpoint: str | None,
    output: str,
) -> None:
    """Start replicas of a registered version.

    An undeployed version starts with the values of its last deployment, except for the given options.
    Without a version, the current one starts.

    \b
    Example:
      skysail start digits:1
      skysail start digits:1 --num-replicas 2 --promote
    """
    with open_client(endpoint) as client:
        found = client.start(
            *target,
            num_replicas=num_replicas,
            promote=promote,
            max_batch_size=max_batch_size,
            memory_mib=memory_mib,
            cpus=cpus,
            gpus=gpus,
            start_timeout_s=start_timeout_s,
            warm_up=warm_up,
        )
    _print_version(found, output)


def _print_version(found: Version, output: str) -> None:
    """Print a deployed version, and whether it is current."""
    if output == "json":
        print_json({**plain(found), "notice": found.not_current})
        return
    name = f"{found.model}:{found.version}"
    current = (
        " and is the current version"
        if found.is_current
        else f"; it is NOT the current version: 'skysail promote {name}' makes it current"
    )
    click.echo(f"{name} has {found.num_ready} ready replica(s){current}")


@click.command(cls=_NumberCommand)
@target_argument()
@click.argument("num_replicas", type=click.IntRange(0), required=False)
@click.option(
    "--min", "min_replicas", type=click.IntRange(1), help="Fewest replicas.  [default: 1]"
)
@click.option("--max", "max_replicas", type=click.IntRange(1), help="Most replicas.")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait until all replicas are ready."
)
@endpoint_option
def scale(
    target: Target,
    num_replicas: int | None,
    min_replicas: int | None,
    max_replicas: int | None,
    wait: bool,
    endpoint: str | None,
) -> None:
    """Set the number of replicas of a version.

    Without a version, the current one is scaled. With --max the number follows the load until it is
    set again.

    \b
    Example:
      skysail scale digits 4
      skysail scale digits:1 0
      skysail scale digits --min 1 --max 8
    """
    if (num_replicas is None) == (max_replicas is None) or (min_replicas and not max_replicas):
        raise click.UsageError("give either a number of replicas, or --max with or without --min")
    model, version = target
    if max_replicas is not None:
        with open_client(endpoint) as client:
            found = client.autoscale(
                model, min_replicas=min_replicas or 1, max_replicas=max_replicas, version=version
            )
        bounds = f"{min_replicas or 1} to {max_replicas}"
        click.echo(f"{model}:{found.version} has {bounds} replicas, depending on its load")
        return
    assert num_replicas is not None
    with open_client(endpoint) as client:
        found = client.scale(model, num_replicas, version=version, wait=wait)
    click.echo(f"{model}:{found.version} has {found.num_ready} of {num_replicas} replica(s) ready")


@click.command()
@target_argument()
@click.option(
    "--force",
    "--yes",
    "-y",
    "is_forced",
    is_flag=True,
    help="Skip the question about a version that is current or routed to.",
)
@endpoint_option
def undeploy(target: Target, is_forced: bool, endpoint: str | None) -> None:
    """Stop the replicas of a version, which stays registered.

    Without a version, the current one is undeployed. 'skysail start' starts it again.

    \b
    Example:
      skysail undeploy digits:1
    """
    with open_client(endpoint) as client:
        try:
            undeployed = client.undeploy(*target, force=is_forced)
        except ModelInUse as error:
            if not _can_ask():
                raise
            confirm(f"{error.message}.\nUndeploy it anyway?")
            undeployed = client.undeploy(*target, force=True)
    click.echo(f"{target.model}:{undeployed} is no longer deployed")


def _can_ask() -> bool:
    return sys.stdin.isatty()


COMMANDS = (deploy, start, scale, undeploy)
