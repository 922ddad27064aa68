"""The confirmation of undeploy for a version in use."""

from contextlib import contextmanager

import pytest
from click.testing import CliRunner, Result

from skysail.cli import deployments
from skysail.cli.main import cli
from skysail_common.errors import ModelInUse


class ServingClient:
    """A client whose only version is current."""

    def __init__(self) -> None:
        self.calls: list[bool] = []

    def undeploy(self, model: str, version: str | None, *, force: bool) -> str:
        self.calls.append(force)
        if not force:
            raise ModelInUse("model 'm:1' is the current version; promote another version first")
        return "1"


@pytest.fixture
def client(monkeypatch) -> ServingClient:
    client = ServingClient()

    @contextmanager
    def open_client(endpoint):
        yield client

    monkeypatch.setattr(deployments, "open_client", open_client)
    return client


def undeploy(monkeypatch, *options: str, answer: str = "", is_terminal: bool = True) -> Result:
    monkeypatch.setattr(deployments, "_can_ask", lambda: is_terminal)
    return CliRunner().invoke(cli, ["undeploy", "m", *options], input=answer)


def test_a_yes_stops_it(client, monkeypatch):
    done = undeploy(monkeypatch, answer="y\n")
    assert "'m:1' is the current version" in done.output
    assert done.output.endswith("m:1 is no longer deployed\n")
    assert client.calls == [False, True]


def test_any_other_answer_keeps_the_version(client, monkeypatch):
    for answer in ("n\n", "\n", ""):
        assert undeploy(monkeypatch, answer=answer).exit_code == 1
    done = undeploy(monkeypatch, answer="n\n")
    assert done.output.endswith("nothing was changed\n")
    assert True not in client.calls


def test_undeploy_without_a_terminal_is_refused(client, monkeypatch):
    done = undeploy(monkeypatch, is_terminal=False)
    assert isinstance(done.exception, ModelInUse)
    assert client.calls == [False]


@pytest.mark.parametrize("option", ["--force", "--yes", "-y"])
def test_force_skips_the_question(client, monkeypatch, option):
    assert undeploy(monkeypatch, option).output == "m:1 is no longer deployed\n"
    assert client.calls == [True]
