"""The argument MODEL:VERSION of all commands, or MODEL for the current version."""

from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import CliRunner

from skysail.cli import deployments, models, queries, tuning
from skysail.cli.main import cli


class Asked(Exception):
    """The first call of a client."""


class AskedClient:
    """Raises an exception with its arguments."""

    def __getattr__(self, name: str) -> Any:
        def asked(*arguments: object, **options: object) -> None:
            raise Asked(name, *arguments, options.get("version"))

        return asked


@pytest.fixture(autouse=True)
def client(monkeypatch):
    @contextmanager
    def open_client(*_: object, **__: object):
        yield AskedClient()

    for module in (deployments, models, queries, tuning):
        monkeypatch.setattr(module, "open_client", open_client)


COMMANDS = [
    (["start"], [], "start"),
    (["undeploy"], [], "undeploy"),
    (["logs"], [], "logs"),
    (["tune"], [], "describe_version"),
    (["scale"], ["2"], "scale"),
    (["scale"], ["--max", "2"], "autoscale"),
    (["delete", "--yes"], [], "unregister_model"),
    (["predict"], ["[1]"], "predict"),
]


@pytest.mark.parametrize(("target", "version"), [("m:1.0", "1.0"), ("m", None)])
@pytest.mark.parametrize(("command", "rest", "method"), COMMANDS)
def test_a_command_asks_for_the_version_that_is_named(command, rest, method, target, version):
    done = CliRunner().invoke(cli, [*command, target, *rest])
    assert isinstance(done.exception, Asked), done.output
    asked, model, *others = done.exception.args
    assert (asked, model) == (method, "m")
    assert [each for each in others if isinstance(each, str)] == ([version] if version else [])


def test_a_promotion_asks_for_the_version_that_is_named():
    done = CliRunner().invoke(cli, ["promote", "m:2"])
    assert isinstance(done.exception, Asked)
    assert done.exception.args[:3] == ("promote", "m", "2")
