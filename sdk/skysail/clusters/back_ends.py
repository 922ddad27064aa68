"""The implementations of `Cluster` by name, and the choice between them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from skysail.clusters.base import Cluster
from skysail.clusters.kubernetes.cluster_record import ClusterRecord
from skysail.settings import DOCKER_RECORD
from skysail_common.extras import require_extra

# Each import is in a function because the base install lacks the clients of Docker and Kubernetes.


def _local() -> type[Cluster]:
    from skysail.clusters.local.cluster import LocalCluster

    return LocalCluster


def _docker() -> type[Cluster]:
    require_extra("server")
    require_extra("docker")
    from skysail.clusters.docker.cluster import DockerCluster

    return DockerCluster


def _kubernetes() -> type[Cluster]:
    from skysail.clusters.kubernetes.cluster import KubernetesCluster

    return KubernetesCluster


LOCAL, DOCKER, KUBERNETES = "local", "docker", "kubernetes"

_BACK_ENDS: Mapping[str, Callable[[], type[Cluster]]] = {
    LOCAL: _local,
    DOCKER: _docker,
    KUBERNETES: _kubernetes,
}


def back_end(name: str) -> type[Cluster]:
    """Return an implementation.

    Raises:
        FailedPrecondition: the extra that it needs is not installed.
    """
    return _BACK_ENDS[name]()


def chosen_back_end(container_manager: str, *, is_all_in_docker: bool) -> str:
    """Return the name of the back end that the options of `skysail up` choose.

    A container manager runs replicas. Only on Kubernetes it implies where the services run.
    """
    if is_all_in_docker:
        return DOCKER
    return KUBERNETES if container_manager == KUBERNETES else LOCAL


def last_back_end(data_dir: Path) -> str:
    """Return the name of the back end of the cluster that was started last from a data directory."""
    if ClusterRecord.read(data_dir) is not None:
        return KUBERNETES
    return DOCKER if (data_dir / DOCKER_RECORD).exists() else LOCAL
