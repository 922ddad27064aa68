"""Clusters of several kinds that were started from one data directory after each other."""

import json
from pathlib import Path

from skysail.clusters.kubernetes.cluster_record import ClusterRecord
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.settings import KUBERNETES_RECORD
from skysail_testing.clusters import running_cluster
from skysail_testing.commands import skysail_command

NOTE = ClusterRecord(KubernetesOptions("models", context="far"), "https://192.0.2.1:6443", "uid")


def test_down_stops_the_local_cluster_that_was_started_after_one_on_kubernetes(tmp_path: Path):
    NOTE.write(tmp_path)
    # Its end, by `skysail down`, asks nothing: no Kubernetes answers at that address.
    with running_cluster(tmp_path) as cluster, cluster.client() as client:
        assert client.status().container_manager == "local"
        assert not (tmp_path / KUBERNETES_RECORD).exists()
        # The other way round: nothing of Kubernetes is asked while the directory is in use.
        refused = skysail_command(
            "up", "--container-manager", "kubernetes", "--data-dir", str(tmp_path)
        )
        assert refused.returncode == 1
        assert "is in use by another cluster" in refused.stderr
        assert json.loads((tmp_path / "cluster.json").read_text())["pid"] == cluster.pid


def test_a_local_up_names_the_cluster_on_kubernetes_that_it_no_longer_notes(tmp_path: Path):
    NOTE.write(tmp_path)
    # A port that nobody may have: nothing is started, and nothing forgotten.
    started = skysail_command(
        "up", "--data-dir", str(tmp_path), "--host", "192.0.2.1", "--http-port", "8000"
    )
    assert started.returncode == 1
    assert (
        f"{NOTE.where} runs on; 'skysail down --container-manager kubernetes --namespace models "
        "--context far' removes it"
    ) in started.stderr
    assert ClusterRecord.read(tmp_path) == NOTE
