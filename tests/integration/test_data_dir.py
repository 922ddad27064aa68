"""Clusters of different kinds, started one after another from one data directory."""

import json
from pathlib import Path

from skysail.clusters.kubernetes.cluster_record import ClusterRecord
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.settings import KUBERNETES_RECORD
from skysail_testing.clusters import running_cluster
from skysail_testing.commands import skysail_command

NOTE = ClusterRecord(KubernetesOptions("models", context="far"), "https://192.0.2.1:6443", "uid")


def test_down_stops_a_local_cluster_in_the_directory_of_one_on_kubernetes(tmp_path: Path):
    NOTE.write(tmp_path)
    # The `down` of the local cluster must not call Kubernetes, which does not exist there.
    with running_cluster(tmp_path) as cluster, cluster.client() as client:
        assert client.status().container_manager == "local"
        assert not (tmp_path / KUBERNETES_RECORD).exists()
        # A cluster on Kubernetes is refused without a call while the directory is in use.
        refused = skysail_command(
            "up", "--container-manager", "kubernetes", "--data-dir", str(tmp_path)
        )
        assert refused.returncode == 1
        assert "is in use by another cluster" in refused.stderr
        assert json.loads((tmp_path / "cluster.json").read_text())["pid"] == cluster.pid


def test_a_local_up_names_the_cluster_on_kubernetes_of_its_directory(tmp_path: Path):
    NOTE.write(tmp_path)
    # The start fails at this address, so the record of the other cluster must stay.
    started = skysail_command(
        "up", "--data-dir", str(tmp_path), "--host", "192.0.2.1", "--http-port", "8000"
    )
    assert started.returncode == 1
    assert (
        f"{NOTE.where} runs on; 'skysail down --container-manager kubernetes --namespace models "
        "--context far' removes it"
    ) in started.stderr
    assert ClusterRecord.read(tmp_path) == NOTE
