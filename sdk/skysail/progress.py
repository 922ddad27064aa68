"""Shows a deployment while it happens."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from skysail.descriptions import DeployEvent

_MARKS = {
    "REGISTERED": "[cyan]•[/]",
    "NOTICE": "[yellow]![/]",
    "STARTING": "[cyan]•[/]",
    "READY": "[green]✓[/]",
    "RETRYING": "[yellow]![/]",
    "PROMOTED": "[green]✓[/]",
    "DONE": "[green]✓[/]",
    "FAILED": "[red]✗[/]",
}


@contextmanager
def deploy_progress(title: str) -> Iterator[Callable[[DeployEvent], None]]:
    """Yield a function that shows each event on standard error, if that is a terminal.

    Args:
        title: What is deployed.
    """
    console = Console(stderr=True, highlight=False)
    if not (console.is_terminal and sys.stderr.isatty()):
        yield lambda event: None
        return
    with console.status(f"deploying {escape(title)}") as status:

        def show(event: DeployEvent) -> None:
            ready = f" ({event.num_ready} of {event.num_replicas} ready)"
            count = ready if event.num_replicas else ""
            status.update(f"deploying {escape(title)}{count}: {escape(event.message[:100])}")
            mark = _MARKS.get(event.step)
            if mark is not None:
                console.print(f"{mark} {escape(event.message)}")

        yield show
