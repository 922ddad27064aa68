from types import SimpleNamespace

from rich.console import Console

from skysail.cli import output
from skysail.cli.endpoints import print_endpoints
from skysail.cli.status import _print_replicas
from skysail.clusters.options import ClusterEndpoints


def test_endpoints_with_brackets_are_shown_as_they_are(capsys):
    endpoints = [f"[fd00::1]:{port}" for port in (8003, 8001, 8000, 8002)]
    print_endpoints(ClusterEndpoints(*endpoints))
    shown = capsys.readouterr().out
    for endpoint in endpoints:
        assert endpoint in shown


def test_a_long_name_does_not_wrap_states_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setattr(output, "console", lambda: Console(width=80, highlight=False))
    long, reason = "a-version-with-a-rather-long-name-of-60-characters-2026-11-30", "it waits"
    replica = SimpleNamespace(replica_id="m:1/0", state="PENDING", num_restarts=3, reason=reason)
    versions = [
        SimpleNamespace(model="m", version=long, deployment=None, replicas=[]),
        SimpleNamespace(model="m", version="1", deployment=None, replicas=[replica]),
    ]
    model = SimpleNamespace(current_version=long, versions=versions)
    _print_replicas(SimpleNamespace(models=[model]))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("not deployed" in line for line in lines) == 1
    assert any(line.startswith("m:1/0") and "PENDING" in line for line in lines)
