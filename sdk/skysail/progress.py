"""Progress of a deployment on a terminal, in a notebook or as lines."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from skysail.descriptions import DeployEvent
from skysail.notebook import CellProgress, find_display, running_shell

if TYPE_CHECKING:
    from rich.console import Console

OnEvent = Callable[[DeployEvent], None]

UPLOADING = "UPLOADING"
"""Step of the events of the client during the upload of an artifact."""

LOCAL_RUN = "LOCAL_RUN"
"""Step of the event before the function is called on this machine."""

_MARKS = {
    "REGISTERED": "[cyan]•[/]",
    "NOTICE": "[yellow]![/]",
    "STARTING": "[cyan]•[/]",
    "READY": "[green]✓[/]",
    "RETRYING": "[yellow]![/]",
    "PROMOTED": "[green]✓[/]",
    "ROUTED": "[green]✓[/]",
    "DONE": "[green]✓[/]",
    "FAILED": "[red]✗[/]",
}
_MAX_SHOWN = 100
_SHOWN_SHARE = 0.1
"""Share of an upload between two lines about it."""
_NEW_LINE = "\n"


@contextmanager
def show_events(
    model: str, version: str | int | None, on_event: OnEvent | None, progress: bool | None
) -> Iterator[OnEvent]:
    """Yield a function that shows each event of a deployment.

    Args:
        model: Name of the model.
        version: Version; None if the server chooses it.
        on_event: Called with each event too.
        progress: True to show events, False to show none. If None, a terminal and a notebook show
            them, unless `on_event` is given.

    Raises:
        KeyboardInterrupt: the caller was interrupted; the text tells what the cluster continues.
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
    """Show that the function is pickled and called on this machine, which may take long.

    The output is one line, because a spinner would redirect the output of the function.
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
        # The import is here because rich takes a tenth of the import time of programs that only query.
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        if console.is_terminal:
            return _on_terminal(title, console)
    display = find_display()
    if display is not None:
        return nullcontext(CellProgress(title, display))
    if progress or _is_notebook():
        # Notebooks show standard error in red, like an error.
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
    """Output of events as plain lines, without the frequent ones."""

    def __init__(self, title: str, file: Any) -> None:
        self._title = title
        self._file = file
        self._shown_share = -1.0

    def _is_frequent(self, event: DeployEvent) -> bool:
        if event.step != UPLOADING or not event.bytes_total:
            return event.step == "PREPARING"
        share = event.bytes_done / event.bytes_total
        if share < min(1.0, self._shown_share + _SHOWN_SHARE):
            return True
        self._shown_share = share
        return False

    def __call__(self, event: DeployEvent) -> None:
        if not self._is_frequent(event):
            line = event.message.partition(_NEW_LINE)[0]
            # Most messages begin with the name of the version or of a replica.
            names_it = re.match(rf"{re.escape(self._title)}[\s:/]", line)
            self._file.write(f"{line}\n" if names_it else f"{self._title}: {line}\n")
            self._file.flush()


def _is_notebook() -> bool:
    return running_shell() is not None
