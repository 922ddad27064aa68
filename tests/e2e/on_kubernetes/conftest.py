"""The one cluster that the tests of this package share."""

from collections.abc import Iterator

import pytest

import skysail
from skysail_testing.kubernetes_clusters import kubernetes_cluster
from skysail_testing.kubernetes_traffic import ROW, double
from skysail_testing.skysail_on_kubernetes import OnKubernetes, new_name, skysail_on_kubernetes


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnKubernetes]:
    with pytest.MonkeyPatch.context() as patch:
        # Commands find Kubernetes by this variable, as those of a user do.
        patch.setenv("KUBECONFIG", str(kubernetes_cluster().config))
        with skysail_on_kubernetes(tmp_path_factory.mktemp("k"), new_name()) as cluster:
            with cluster.client() as client:
                client.deploy(double, name="m", version="1", example=ROW, num_replicas=2)
                client.register_application("app", default_output=[0, 0, 0], slo_ms=20_000)
                client.link("app", "m")
            yield cluster


@pytest.fixture(scope="package")
def client(cluster: OnKubernetes) -> Iterator[skysail.Client]:
    with cluster.client() as client:
        yield client
