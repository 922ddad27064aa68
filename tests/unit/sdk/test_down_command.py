"""The command down stops nothing whose only copy ends with it."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from skysail.cli import down
from skysail.cli.main import cli
from skysail.settings import CLUSTER_FILE
from skysail_common.errors import FailedPrecondition, Unavailable


@pytest.fixture
def stopped(monkeypatch) -> list[Path]:
    calls: list[Path] = []

    async def stop_cluster(directory, cluster, environment):
        calls.append(directory)
        return True

    monkeypatch.setattr(down, "stop_cluster", stop_cluster)
    return calls


def run(monkeypatch, directory: Path, status, *flags: str) -> Result:
    (directory / CLUSTER_FILE).write_text(json.dumps({"management": "127.0.0.1:9"}))

    @contextmanager
    def client_of(endpoint, timeout_s):
        assert endpoint == "127.0.0.1:9"
        yield SimpleNamespace(status=status)

    monkeypatch.setattr(down, "client_of", client_of)
    return CliRunner().invoke(cli, ["down", "--data-dir", str(directory), *flags])


def lost() -> SimpleNamespace:
    return SimpleNamespace(is_store_reachable=True, store_problem="the store came back empty")


def test_the_only_copy_is_kept(monkeypatch, stopped, tmp_path):
    done = run(monkeypatch, tmp_path, lost)
    assert isinstance(done.exception, FailedPrecondition)
    assert "the store came back empty" in done.exception.message
    assert "run 'skysail store restore' first" in done.exception.message
    assert stopped == []


def test_a_yes_gives_it_up(monkeypatch, stopped, tmp_path):
    assert run(monkeypatch, tmp_path, lost, "--yes").output == "stopped\n"
    assert stopped == [tmp_path]


def test_a_store_that_is_well_or_away_and_a_dead_management_do_not_keep_it(
    monkeypatch, stopped, tmp_path
):
    def dead() -> None:
        raise Unavailable("no management runs")

    well = SimpleNamespace(is_store_reachable=True, store_problem="")
    away = SimpleNamespace(is_store_reachable=False, store_problem="it is away")
    for status in (lambda: well, lambda: away, dead):
        assert run(monkeypatch, tmp_path, status).output == "stopped\n"
    assert len(stopped) == 3
