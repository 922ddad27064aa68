import subprocess
import sys
from types import SimpleNamespace

import pytest

from skysail import DeployEvent
from skysail.progress import UPLOADING, show_events, show_local_run


def event(step: str, message: str = "it happens", version: str = "7") -> DeployEvent:
    return DeployEvent(step, message, "", "", 0, 1, version)


def show(*, on_event=None, progress=None) -> None:
    with show_events("m", "1", on_event, progress) as see:
        see(event("REGISTERED", "m:1 is registered\nand more"))
        see(event("PREPARING", "a line of pip"))
        see(event("NOTICE", "scaled to 2"))
        see(event("DONE", "m:1/0 is ready"))


LINES = "m:1 is registered\nm:1: scaled to 2\nm:1/0 is ready\n"


def test_a_script_shows_nothing_unless_it_asks(capsys):
    show()
    assert capsys.readouterr() == ("", "")
    show(progress=True)
    assert capsys.readouterr() == ("", LINES)


def test_a_notebook_shows_lines_unless_it_refuses(capsys, monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    show(progress=False)
    show(on_event=lambda event: None)
    assert capsys.readouterr() == ("", "")
    show()
    assert capsys.readouterr() == (LINES, "")


def test_events_reach_the_caller_and_the_screen(capsys):
    seen: list[str] = []
    show(on_event=lambda event: seen.append(event.step), progress=True)
    assert seen == ["REGISTERED", "PREPARING", "NOTICE", "DONE"]
    assert capsys.readouterr() == ("", LINES)


def interrupted_after(version: str | None, *steps: str) -> str:
    try:
        with show_events("m", version, None, False) as see:
            for step in steps:
                see(event(step))
            raise KeyboardInterrupt
    except KeyboardInterrupt as interrupt:
        return str(interrupt)


def test_an_interrupt_names_the_deployment_that_continues():
    assert interrupted_after(None, "REGISTERED", "STARTING") == (
        "the deployment of m:7 goes on in the cluster; to stop it: skysail undeploy m:7"
    )


@pytest.mark.parametrize("steps", [[], [UPLOADING]])
def test_an_interrupt_before_the_deployment_says_so(steps):
    assert interrupted_after("1", *steps) == "m:1 was not deployed"


def test_a_program_that_only_queries_does_not_import_what_shows_progress():
    code = "import sys, skysail; print([name for name in sys.modules if name.startswith('rich')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_a_call_on_this_machine_is_shown_before_it_begins(capsys, monkeypatch):
    line = "m: calling the function here on the example\n"
    show_local_run("m", None, None, None)
    show_local_run("m", None, None, False)
    assert capsys.readouterr() == ("", "")
    show_local_run("m", None, None, True)
    assert capsys.readouterr() == ("", line)
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        show_local_run("m", None, None, None)
    assert capsys.readouterr() == ("", line)
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    show_local_run("m", None, None, None)
    assert capsys.readouterr() == (line, "")
