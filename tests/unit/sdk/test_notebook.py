"""Progress in a cell, and the cells of errors, without a kernel."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from skysail import DeployEvent
from skysail.notebook import CellProgress, cell_of, find_display, running_shell
from skysail.progress import show_events
from skysail_testing.clock import FakeClock


class Screen:
    """An output of a cell, which is updated in place."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.num_outputs = 0

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> "Screen":
        self.num_outputs += 1
        self.update(content, raw=raw)
        return self

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        self.texts.append(content["text/plain"])


def event(step: str, message: str, done: int = 0, total: int = 0) -> DeployEvent:
    return DeployEvent(step, message, "", "", 0, 1, bytes_done=done, bytes_total=total)


def test_steps_stay_and_the_upload_is_updated_in_place():
    screen, clock = Screen(), FakeClock()
    show = CellProgress("m:1", screen.display, clock)
    for done in (0, 50, 100):
        clock.advance(1.0)
        show(event("UPLOADING", "uploaded", done << 20, 100 << 20))
    assert screen.texts[1].splitlines() == [
        "deploying m:1",
        "uploading ███████████████░░░░░░░░░░░░░░░ 50.0 of 100.0 MiB, 25.0 MiB/s",
    ]
    show(event("REGISTERED", "m:1 is registered\nand more"))
    show(event("DONE", "m:1 is deployed"))
    assert screen.texts[-1] == "deploying m:1\nm:1 is registered\nm:1 is deployed"
    assert screen.num_outputs == 1


def test_frequent_events_are_shown_ten_times_a_second():
    screen, clock = Screen(), FakeClock()
    show = CellProgress("m", screen.display, clock)
    for number in range(100):
        show(event("PREPARING", f"line {number}"))
        clock.advance(0.01)
    assert len(screen.texts) == 10
    show(event("UPLOADING", "uploaded", 7, 7))
    assert "█" * 30 in screen.texts[-1]


class Shell:
    """The shell of a kernel, with one cell."""

    class compile:  # noqa: A001 - the name of IPython.
        @staticmethod
        def format_code_name(name: str) -> tuple[str, str] | None:
            return ("Cell", "In[3]") if name == "<cell>" else None


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    shell = type("Shell", (type("ZMQInteractiveShell", (Shell,), {}),), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


def failure() -> BaseException:
    names: dict[str, Any] = {}
    exec(compile("def fails():\n    return 1 / 0\n", "<cell>", "exec"), names)
    with pytest.raises(ZeroDivisionError) as raised:
        names["fails"]()
    return raised.value


@pytest.mark.usefixtures("shell")
def test_an_error_names_its_innermost_cell():
    assert cell_of(failure()) == "; in cell In[3], line 2"
    assert cell_of(ValueError("never raised")) == ""


def test_outside_of_a_notebook_there_are_no_cells():
    assert running_shell() is None
    assert find_display() is None
    assert cell_of(failure()) == ""


def test_a_notebook_without_displays_shows_lines(shell, capsys):
    assert running_shell() is shell
    assert find_display() is None
    with show_events("m", "1", None, None) as see:
        see(event("DONE", "m:1 is deployed"))
    assert capsys.readouterr() == ("m:1 is deployed\n", "")
