"""Notebooks: progress that is updated in place, and the cells of errors."""

import sys
from collections.abc import Callable
from importlib import import_module
from types import TracebackType
from typing import Any

from skysail.descriptions import DeployEvent
from skysail_common.clock import MONOTONIC, Clock

_SHELL = "ZMQInteractiveShell"
_WIDTH = 30
_MIB = 1024 * 1024
_MAX_LINE = 120
_FREQUENT = ("UPLOADING", "PREPARING")
_SHOWN_EVERY_S = 0.1


def running_shell() -> Any:
    """Return the shell of the notebook that runs this code, or None."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    is_notebook = any(cls.__name__ == _SHELL for cls in type(shell).__mro__)
    return shell if is_notebook else None


def find_display() -> Callable[..., Any] | None:
    """Return the function that displays an output of a cell; None outside of notebooks."""
    if running_shell() is None:
        return None
    try:
        display: Callable[..., Any] = import_module("IPython.display").display
    except (ImportError, AttributeError):
        return None
    return display


class CellProgress:
    """The progress of a deployment as one output of a cell."""

    def __init__(self, title: str, display: Callable[..., Any], clock: Clock = MONOTONIC) -> None:
        """Show nothing yet; `display` is that of IPython."""
        self._title = title
        self._display = display
        self._clock = clock
        self._handle: Any = None
        self._lines: list[str] = []
        self._upload_began = clock()
        self._shown_at = -_SHOWN_EVERY_S

    def __call__(self, event: DeployEvent) -> None:
        """Show an event: steps stay, an upload and the lines of pip replace each other."""
        line = event.message.partition("\n")[0][:_MAX_LINE]
        if event.step not in _FREQUENT:
            self._lines.append(line)
            self._show([])
        elif self._clock() - self._shown_at >= _SHOWN_EVERY_S or self._is_uploaded(event):
            self._show([self._bar(event) if event.bytes_total else line])

    @staticmethod
    def _is_uploaded(event: DeployEvent) -> bool:
        return 0 < event.bytes_total == event.bytes_done

    def _bar(self, event: DeployEvent) -> str:
        done = round(_WIDTH * event.bytes_done / event.bytes_total)
        taken_s = max(self._clock() - self._upload_began, 1e-3)
        rate = event.bytes_done / _MIB / taken_s
        sizes = f"{event.bytes_done / _MIB:.1f} of {event.bytes_total / _MIB:.1f} MiB"
        return f"uploading {'█' * done}{'░' * (_WIDTH - done)} {sizes}, {rate:.1f} MiB/s"

    def _show(self, transient: list[str]) -> None:
        self._shown_at = self._clock()
        text = "\n".join([f"deploying {self._title}", *self._lines, *transient])
        content = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def cell_of(error: BaseException) -> str:
    """Return the innermost cell of a notebook in a traceback, such as `; in cell In[3], line 4`.

    The text is empty outside of notebooks, and if no frame belongs to a cell.
    """
    name_of = getattr(getattr(running_shell(), "compile", None), "format_code_name", None)
    if name_of is None:
        return ""
    found = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        # IPython gives the kind and the name of a code, such as Cell and In[3].
        named = name_of(trace.tb_frame.f_code.co_filename)
        if named is not None:
            found = f"; in cell {named[1]}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return found
