"""Clusters that are all in Docker, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import skysail
from skysail.clusters.docker.specifications import FRONTEND, MANAGEMENT, PROMETHEUS, STORE
from skysail_testing.clusters import RunningCluster, running_cluster
from skysail_testing.container_managers import run_docker, why_no_docker

SERVICES = (STORE, MANAGEMENT, FRONTEND, PROMETHEUS)


def why_not_all_in_docker() -> str:
    """Return the reason to skip these tests; empty if they can run."""
    if reason := why_no_docker():
        return reason
    for service in SERVICES:
        image = f"skysail-{service}:{skysail.__version__}"
        if not run_docker("images", "--quiet", image):
            return f"docker has no image {image}: make images"
    return ""


def label(data_dir: Path) -> str:
    return f"label=ai.skysail.data-dir={data_dir.resolve() / 'docker' / 'management'}"


def remove_images(filter_label: str) -> None:
    """Remove the images that a cluster keeps for the next one in its directory."""
    names = "{{.Repository}}:{{.Tag}}"
    images = run_docker("images", "--format", names, "--filter", filter_label).split()
    assert images
    run_docker("rmi", "--force", *images)


def left(data_dir: Path) -> str:
    commands = (["ps", "--all"], ["network", "ls"], ["volume", "ls"])
    return "".join(run_docker(*words, "--quiet", "--filter", label(data_dir)) for words in commands)


@contextmanager
def all_in_docker(data_dir: Path, *flags: str) -> Iterator[RunningCluster]:
    with running_cluster(data_dir, "--all-in-docker", "--cluster", "allin", *flags) as cluster:
        yield cluster
    assert left(data_dir) == ""
