"""The group store: mending what holds the state of a cluster."""

import click

from skysail.cli.options import endpoint_option, open_client


@click.group()
def store() -> None:
    """Mend the store, which holds the state of the cluster.

    \b
    Example:
      skysail store restore
    """


@store.command()
@endpoint_option
def restore(endpoint: str | None) -> None:
    """Write what management knows into a store that came back empty or older than it was.

    A management that runs has a copy of every record. Where the data of the store can be restored
    instead, such as from a backup that is not older, do that.

    \b
    Example:
      skysail store restore
    """
    with open_client(endpoint) as client:
        num_records = client.restore_store()
    click.echo(f"restored {num_records} records")


COMMANDS = (store,)
