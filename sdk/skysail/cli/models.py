"""Commands about models: deploy, promote, rollback, scale, tune, undeploy, logs, models."""

import importlib
import operator
import sys
from dataclasses import replace
from typing import Any

import click
from rich.markup import escape

from skysail.cli.options import client_of, endpoint_option
from skysail.cli.output import output_option, print_json, print_table
from skysail.descriptions import Version
from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.serving_options import PolicyName


def load_object(text: str, what: str) -> Any:
    """Return what `module:name` names; modules of the present directory are found first.

    Raises:
        InvalidInput: there is no such thing, or its module fails to import.
    """
    module_name, colon, path = text.partition(":")
    if not colon or not module_name or not path:
        raise InvalidInput(f"{what} {text!r} must have the form module:name")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InvalidInput(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    try:
        return operator.attrgetter(path)(module)
    except AttributeError:
        raise InvalidInput(f"module {module_name!r} has no {path!r}") from None


@click.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--name", required=True, help="Name of the model.")
@click.option("--version", required=True, help="Version, such as 1 or 1.0.")
@click.option(
    "--example", metavar="MODULE:NAME", help="Input with its batch axis; teaches the signature."
)
@click.option(
    "--input-type",
    type=click.Choice(["integers", "floats", "doubles", "bytes", "strings"]),
    help="For a function that takes a list, in place of an example.",
)
@click.option("--num-replicas", type=click.IntRange(1), default=1, show_default=True)
@click.option("--pkg", "pkgs", multiple=True, help="Package to install; may be repeated.")
@click.option(
    "--requirements",
    type=click.Path(dir_okay=False, exists=True),
    help="Requirements file with packages to install.",
)
@click.option(
    "--promote/--no-promote",
    default=True,
    show_default=True,
    help="Make it the current version once it is ready.",
)
@click.option("--max-batch-size", type=click.IntRange(1), help="Most rows of one batch.")
@click.option("--memory-mib", type=click.IntRange(0), default=0, help="Memory of a replica.")
@click.option(
    "--cpus", type=click.FloatRange(0), default=0.0, help="CPUs of a replica, such as 0.5."
)
@click.option("--gpus", type=click.IntRange(0), default=0, help="GPUs of a replica for itself.")
@endpoint_option
@output_option
def deploy(
    function: str,
    name: str,
    version: str,
    example: str | None,
    input_type: str | None,
    num_replicas: int,
    pkgs: tuple[str, ...],
    requirements: str | None,
    promote: bool,
    max_batch_size: int | None,
    memory_mib: int,
    cpus: float,
    gpus: int,
    endpoint: str | None,
    output: str,
) -> None:
    """Deploy a function as a version of a model.

    \b
    Example:
      skysail deploy mymodel:predict --name digits --version 1 --example mymodel:example
      skysail deploy mymodel:total --name sum --version 1.0 --input-type doubles --num-replicas 2
    """
    loaded = load_object(function, "function")
    with client_of(endpoint) as client:
        found = client.deploy(
            loaded,
            name=name,
            version=version,
            example=None if example is None else load_object(example, "example"),
            input_type=input_type,
            num_replicas=num_replicas,
            pkgs_to_install=pkgs,
            requirements=requirements,
            promote=promote,
            max_batch_size=max_batch_size,
            memory_mib=memory_mib,
            cpus=cpus,
            gpus=gpus,
        )
    if output == "json":
        print_json(found)
    else:
        current = " and is the current version" if promote else ""
        click.echo(f"{name}:{version} has {found.num_ready} ready replica(s){current}")


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
    """Go back to the version that was current before.

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
@click.option("--max-batch-size", type=int, help="Most rows of one batch.")
@click.option(
    "--policy",
    type=click.Choice([policy.value for policy in PolicyName]),
    help="Which rule forms batches.",
)
@click.option("--max-queue-delay-ms", type=float, help="Longest wait for more queries.")
@click.option(
    "--preferred-batch-size",
    "preferred",
    type=int,
    multiple=True,
    help="Size that is sent at once.",
)
@click.option("--max-queue-size", type=int, help="Rows that may wait.")
@click.option("--cache-ttl-s", type=float, help="Longest age of a cached prediction; 0 for none.")
@endpoint_option
def tune(
    model: str,
    version: str | None,
    max_batch_size: int | None,
    policy: str | None,
    max_queue_delay_ms: float | None,
    preferred: tuple[int, ...],
    max_queue_size: int | None,
    cache_ttl_s: float | None,
    endpoint: str | None,
) -> None:
    """Set how a version is served, at once.

    What is not given stays as it is.

    \b
    Example:
      skysail tune digits --cache-ttl-s 60
      skysail tune digits --policy fixed --max-batch-size 32 --max-queue-delay-ms 5
    """
    given = {
        "max_batch_size": max_batch_size,
        "policy": None if policy is None else PolicyName(policy),
        "max_queue_delay_s": None if max_queue_delay_ms is None else max_queue_delay_ms / 1000,
        "preferred_batch_sizes": tuple(sorted(preferred)) or None,
        "max_queue_size": max_queue_size,
        "cache_ttl_s": cache_ttl_s,
    }
    with client_of(endpoint) as client:
        found = client.describe_version(model, version)
        if found.deployment is None:
            raise FailedPrecondition(f"model '{model}:{found.version}' is not deployed")
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        options = client.tune(
            model, replace(found.deployment.serving, **changes), version=found.version
        )
    rows = [[escape(name), escape(_shown(value))] for name, value in vars(options).items()]
    print_table(f"{model}:{found.version}", ["option", "value"], rows)


def _shown(value: object) -> str:
    return str(value.value) if isinstance(value, PolicyName) else str(value)


@click.command()
@click.argument("model")
@click.argument("num_replicas", type=click.IntRange(0), required=False)
@click.option(
    "--min", "min_replicas", type=click.IntRange(1), help="Fewest replicas; 1 if not given."
)
@click.option("--max", "max_replicas", type=click.IntRange(1), help="Most replicas.")
@click.option("--version", help="Version; the current one if not given.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until all are ready.")
@endpoint_option
def scale(
    model: str,
    num_replicas: int | None,
    min_replicas: int | None,
    max_replicas: int | None,
    version: str | None,
    wait: bool,
    endpoint: str | None,
) -> None:
    """Set the number of replicas of a version.

    With --max it follows the load until a number is given again.

    \b
    Example:
      skysail scale digits 4
      skysail scale digits --min 1 --max 8
    """
    if (num_replicas is None) == (max_replicas is None) or (min_replicas and not max_replicas):
        raise click.UsageError("give either a number of replicas, or --max with or without --min")
    if max_replicas is not None:
        with client_of(endpoint) as client:
            found = client.autoscale(
                model, min_replicas=min_replicas or 1, max_replicas=max_replicas, version=version
            )
        bounds = f"{min_replicas or 1} to {max_replicas}"
        click.echo(f"{model}:{found.version} has {bounds} replicas, as its load needs")
        return
    assert num_replicas is not None
    with client_of(endpoint) as client:
        found = client.scale(model, num_replicas, version=version, wait=wait)
    click.echo(f"{model}:{found.version} has {found.num_ready} of {num_replicas} replica(s) ready")


@click.command()
@click.argument("model")
@click.option("--version", help="Version; the current one if not given.")
@click.option("--force", is_flag=True, help="Also if an application is routed to it.")
@endpoint_option
def undeploy(model: str, version: str | None, force: bool, endpoint: str | None) -> None:
    """Stop the replicas of a version, which stays registered.

    \b
    Example:
      skysail undeploy digits --version 1
    """
    with client_of(endpoint) as client:
        undeployed = client.undeploy(model, version, force=force)
    click.echo(f"{model}:{undeployed} is not deployed any more")


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


COMMANDS = (deploy, promote, rollback, scale, tune, undeploy, logs, models)
