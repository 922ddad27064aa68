"""Shows a deployment while it happens, and says what goes on if the caller leaves it."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from skysail.descriptions import DeployEvent

if TYPE_CHECKING:
    from rich.console import Console

OnEvent = Callable[[DeployEvent], None]

UPLOADING = "UPLOADING"
"""Step of the events that the client itself makes, while it uploads an artifact."""

LOCAL_RUN = "LOCAL_RUN"
"""Step of the event that is shown before the function is called on this machine."""

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
_MAX_SHOWN = 100
_NEW_LINE = "\n"
_NOTEBOOK = "ZMQInteractiveShell"


@contextmanager
def show_events(
    model: str, version: str | int | None, on_event: OnEvent | None, progress: bool | None
) -> Iterator[OnEvent]:
    """Yield a function that takes each event of a deployment.

    Args:
        model: What is deployed.
        version: Its version; None if the server names it.
        on_event: Called with each event too.
        progress: True to show the events, False not to. If None, they are shown on a terminal and
            in a notebook, unless `on_event` is given.

    Raises:
        KeyboardInterrupt: the caller's, with a text that says what goes on in the cluster.
    """
    versions: list[str] = []
    title = model if version is None else f"{model}:{version}"
    with _shown(title, on_event is None if progress is None else progress, progress) as show:

        def see(event: DeployEvent) -> None:
            if event.step != UPLOADING:
                versions.append(event.version)
            show(event)
            if on_event is not None:
                on_event(event)

        try:
            yield see
        except KeyboardInterrupt:
            if not versions:
                raise KeyboardInterrupt(f"{title} was not deployed") from None
            name = versions[-1] or version
            raise KeyboardInterrupt(
                f"the deployment of {model}:{name} goes on in the cluster; to stop it: "
                f"skysail undeploy {model}:{name}"
            ) from None


def show_local_run(
    model: str, version: str | int | None, on_event: OnEvent | None, progress: bool | None
) -> None:
    """Show that the function is captured and called on this machine, which may take long.

    It is one line and no spinner, which would redirect what the function itself prints.
    """
    if not (on_event is None if progress is None else progress):
        return
    title = model if version is None else f"{model}:{version}"
    event = DeployEvent(LOCAL_RUN, "calling the function here on the example", "", "", 0, 0)
    if progress or _is_notebook() or sys.stderr.isatty():
        _Lines(title, sys.stdout if _is_notebook() else sys.stderr)(event)


def _shown(title: str, is_wanted: bool, progress: bool | None) -> Any:
    if not is_wanted:
        return nullcontext(_ignore)
    if sys.stderr.isatty():
        # Here, because rich is a tenth of what a program that only queries would import.
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            return _on_terminal(title, console)
    if progress or _is_notebook():
        # In a notebook standard error is red, as if something were wrong.
        return nullcontext(_Lines(title, sys.stdout if _is_notebook() else sys.stderr))
    return nullcontext(_ignore)


def _ignore(event: DeployEvent) -> None:
    pass


@contextmanager
def _on_terminal(title: str, console: "Console") -> Iterator[OnEvent]:
    from rich.markup import escape

    with console.status(f"deploying {escape(title)}") as status:

        def show(event: DeployEvent) -> None:
            ready = f" ({event.num_ready} of {event.num_replicas} ready)"
            count = ready if event.num_replicas else ""
            text = escape(event.message[:_MAX_SHOWN])
            status.update(f"deploying {escape(title)}{count}: {text}")
            mark = _MARKS.get(event.step)
            if mark is not None:
                console.print(f"{mark} {escape(event.message)}", soft_wrap=True)

        yield show


class _Lines:
    """Shows events as plain lines, without those that come in great number."""

    def __init__(self, title: str, file: Any) -> None:
        self._title = title
        self._file = file

    def __call__(self, event: DeployEvent) -> None:
        if event.step != "PREPARING":
            line = event.message.partition(_NEW_LINE)[0]
            # Most messages begin with the version, or a replica of it.
            names_it = re.match(rf"{re.escape(self._title)}[\s:/]", line)
            self._file.write(f"{line}\n" if names_it else f"{self._title}: {line}\n")
            self._file.flush()


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == _NOTEBOOK
