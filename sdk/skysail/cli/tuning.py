"""The command tune, for the serving options of a version."""

from typing import Any

import click
from rich.markup import escape

from skysail.cli.options import endpoint_option, open_client
from skysail.cli.output import print_table
from skysail.cli.version_targets import Target, target_argument
from skysail_common.serving_options import PolicyName, ServingOptions

_OPTIONS = {
    "max-batch-size": "max_batch_size",
    "policy": "policy",
    "max-queue-delay": "max_queue_delay_s",
    "preferred-batch-size": "preferred_batch_sizes",
    "max-queue-size": "max_queue_size",
    "cache-ttl": "cache_ttl_s",
}
_DEFAULTS = {
    "max_queue_delay_s": "chosen by the policy",
    "preferred_batch_sizes": "none",
    "max_queue_size": "setting of the frontend",
}
"""Texts for options without a value."""


@click.command()
@target_argument()
@click.option("--max-batch-size", type=int, help="Most rows of one batch.")
@click.option(
    "--policy",
    type=click.Choice([policy.value for policy in PolicyName]),
    help="Policy that forms batches.",
)
@click.option("--max-queue-delay-ms", type=float, help="Longest wait for more queries, in ms.")
@click.option(
    "--preferred-batch-size",
    "preferred",
    type=int,
    multiple=True,
    help="Size at which a batch is sent without a wait; repeatable.",
)
@click.option("--max-queue-size", type=int, help="Most rows in the queue.")
@click.option(
    "--cache-ttl-s", type=float, help="Longest age of a cached prediction in s; 0 for no cache."
)
@click.option(
    "--default",
    "defaults",
    type=click.Choice(_OPTIONS),
    metavar="OPTION",
    multiple=True,
    help=f"Option to reset to its default: {', '.join(_OPTIONS)}; repeatable.",
)
@endpoint_option
def tune(
    target: Target,
    max_batch_size: int | None,
    policy: str | None,
    max_queue_delay_ms: float | None,
    preferred: tuple[int, ...],
    max_queue_size: int | None,
    cache_ttl_s: float | None,
    defaults: tuple[str, ...],
    endpoint: str | None,
) -> None:
    """Change the serving options of a version, at once.

    Without a version, the current one is tuned. Options that are not given stay unchanged.

    \b
    Example:
      skysail tune digits --cache-ttl-s 60
      skysail tune digits --policy fixed --max-batch-size 32 --max-queue-delay-ms 5
      skysail tune digits --default max-queue-delay
    """
    given = {
        "max_batch_size": max_batch_size,
        "policy": None if policy is None else PolicyName(policy),
        "max_queue_delay_s": None if max_queue_delay_ms is None else max_queue_delay_ms / 1000,
        "preferred_batch_sizes": tuple(sorted(preferred)) or None,
        "max_queue_size": max_queue_size,
        "cache_ttl_s": cache_ttl_s,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    for option in defaults:
        if _OPTIONS[option] in changes:
            raise click.UsageError(
                f"cannot reset {option}: a value is given, too; give one of the two"
            )
        changes[_OPTIONS[option]] = None
    with open_client(endpoint) as client:
        found = client.describe_version(*target)
        options = client.tune(target.model, version=found.version, **changes)
    rows = [[name, escape(_shown(options, name))] for name in vars(options)]
    print_table(f"{target.model}:{found.version}", ["option", "value"], rows)


def _shown(options: ServingOptions, name: str) -> str:
    value = getattr(options, name)
    if value is None or value == ():
        return _DEFAULTS[name]
    if isinstance(value, PolicyName):
        return value.value
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


COMMANDS = (tune,)
