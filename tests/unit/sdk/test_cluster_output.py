from skysail.cli.cluster import print_endpoints
from skysail.supervisor.options import ClusterEndpoints


def test_endpoints_with_brackets_are_shown_as_they_are(capsys):
    endpoints = [f"[fd00::1]:{port}" for port in (8003, 8001, 8000, 8002)]
    print_endpoints(ClusterEndpoints(*endpoints))
    shown = capsys.readouterr().out
    for endpoint in endpoints:
        assert endpoint in shown
