"""The command down refuses to lose records that only management has."""

import json
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from skysail.cli.main import cli
from skysail.clusters import supervised
from skysail.clusters.supervised import SupervisedCluster
from skysail.settings import CLUSTER_FILE
from skysail_common.errors import FailedPrecondition, Unavailable


@pytest.fixture
def stopped(monkeypatch) -> list[Path]:
    calls: list[Path] = []

    async def end(cluster: SupervisedCluster) -> bool:
        calls.append(cluster._data_dir)
        return True

    monkeypatch.setattr(SupervisedCluster, "_end", end)
    return calls


def run(monkeypatch, directory: Path, status, *flags: str) -> Result:
    (directory / CLUSTER_FILE).write_text(json.dumps({"management": "127.0.0.1:9"}))

    @asynccontextmanager
    async def client(endpoint, timeout_s):
        assert endpoint == "127.0.0.1:9"

        async def answer() -> SimpleNamespace:
            return status()

        yield SimpleNamespace(status=answer)

    monkeypatch.setattr(supervised, "AsyncClient", client)
    return CliRunner().invoke(cli, ["down", "--data-dir", str(directory), *flags])


def lost() -> SimpleNamespace:
    return SimpleNamespace(is_store_reachable=True, store_problem="the store came back empty")


def test_down_is_refused_if_the_store_lost_records(monkeypatch, stopped, tmp_path):
    done = run(monkeypatch, tmp_path, lost)
    assert isinstance(done.exception, FailedPrecondition)
    assert "the store came back empty" in done.exception.message
    assert "run 'skysail store restore' first" in done.exception.message
    assert stopped == []


def test_yes_stops_the_cluster_anyway(monkeypatch, stopped, tmp_path):
    assert run(monkeypatch, tmp_path, lost, "--yes").output == "stopped\n"
    assert stopped == [tmp_path]


def test_down_stops_a_cluster_with_a_usable_or_unreachable_store_or_a_dead_management(
    monkeypatch, stopped, tmp_path
):
    def dead() -> None:
        raise Unavailable("no management runs")

    well = SimpleNamespace(is_store_reachable=True, store_problem="")
    away = SimpleNamespace(is_store_reachable=False, store_problem="it is away")
    for status in (lambda: well, lambda: away, dead):
        assert run(monkeypatch, tmp_path, status).output == "stopped\n"
    assert len(stopped) == 3
