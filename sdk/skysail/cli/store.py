"""The group store, about the store of a cluster."""

import click

from skysail.cli.options import endpoint_option, open_client


@click.group()
def store() -> None:
    """Repair the store, which holds the state of the cluster.

    \b
    Example:
      skysail store restore
    """


@store.command()
@endpoint_option
def restore(endpoint: str | None) -> None:
    """Write the records of management into a store that lost them.

    A running management has a copy of every record. If you have a backup of the store with all of its
    data, restore that instead.

    \b
    Example:
      skysail store restore
    """
    with open_client(endpoint) as client:
        num_records = client.restore_store()
    click.echo(f"restored {num_records} records")


COMMANDS = (store,)
