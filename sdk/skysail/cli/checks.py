"""The command check."""

import sys
from typing import Any

import click

from skysail.checks.check import DEFAULT_TIMEOUT_S, check
from skysail.cli.deployments import deploy, parse_files
from skysail.cli.object_references import load_object, load_source
from skysail.cli.output import print_json

_ONLY_DEPLOYED = frozenset({
    "name", "version", "num_replicas", "promote", "app", "slo_ms", "default_output", "endpoint",
    "memory_mib", "cpus", "gpus", "start_timeout_s", "warm_up",
})  # fmt: skip
"""Options of deploy that change nothing in the artifact."""


@click.command(
    name="check", params=[each for each in deploy.params if each.name not in _ONLY_DEPLOYED]
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0, min_open=True),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="Longest time of the installation, and again of the load.",
)
def check_command(
    source: str,
    example: str | None,
    examples: str | None,
    files: tuple[str, ...],
    pkgs: tuple[str, ...],
    output: str,
    **options: Any,
) -> None:
    """Check whether a replica could serve a model, without a cluster.

    The command packages the model as deploy does. Another process loads it and answers the example,
    with only Skysail, the given packages and what travels. The exit status is 0 if that works, else
    1; the last line names what is missing.

    \b
    Example:
      skysail check mymodel:predict --example mymodel:example
      skysail check model.joblib --example mymodel:example --pkg scikit-learn==1.5.2
    """
    report = check(
        load_source(source),
        example=None if example is None else load_object(example, "example"),
        examples=None if examples is None else load_object(examples, "examples"),
        files=parse_files(files),
        pkgs_to_install=pkgs,
        progress=lambda line: click.echo(line, err=True),
        **options,
    )
    if output == "json":
        print_json(report)
    else:
        if not report:
            click.echo(report.log, err=True)
        click.echo(str(report))
    sys.exit(0 if report else 1)


COMMANDS = (check_command,)
