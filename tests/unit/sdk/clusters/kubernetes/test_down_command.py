"""`skysail down`, its choice of a cluster and its confirmation."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from skysail.cli.main import cli
from skysail.clusters.kubernetes.cluster_record import ClusterRecord
from skysail.settings import CLUSTER_FILE
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.kinds import CONFIG_MAP, SECRET
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import OPTIONS, service_pod, started, thing

WHERE = "cluster 'blue' in namespace 'skysail' of context 'admin@test' (https://192.0.2.1:6443)"
EXPLICIT = ["--container-manager", "kubernetes", "--namespace", "skysail", "--cluster", "blue"]


@pytest.fixture
def noted(api: FakeKubernetesApi, tmp_path: Path) -> ClusterRecord:
    """The record of a cluster that was started from the directory of the test."""
    api.add(service_pod("management", is_leader=True))
    note = asyncio.run(started(thing("Secret", "skysail-store-blue", "store")))
    note.write(tmp_path)
    (tmp_path / CLUSTER_FILE).write_text("{}")
    return note


def down(directory: Path, *flags: str, answer: str = "") -> Result:
    return CliRunner().invoke(cli, ["down", "--data-dir", str(directory), *flags], input=answer)


def is_there(api: FakeKubernetesApi) -> bool:
    return (CONFIG_MAP, "skysail-blue") in api.objects


def test_down_names_the_cluster_and_asks_for_confirmation(api, noted, tmp_path):
    result = down(tmp_path, answer="n\n")
    assert f"{WHERE} is removed with its replicas; its claims and Secrets stay." in result.output
    assert result.exit_code == 1
    assert is_there(api)
    assert ClusterRecord.read(tmp_path) == noted
    result = down(tmp_path, answer="y\n")
    assert result.exit_code == 0
    assert "kept: Secret skysail-store-blue; --delete-data deletes them" in result.output
    assert not is_there(api)
    assert (SECRET, "skysail-store-blue") in api.objects
    assert list(tmp_path.iterdir()) == []


def test_a_script_must_pass_yes(api, noted, tmp_path):
    result = down(tmp_path)
    assert isinstance(result.exception, FailedPrecondition)
    assert result.exception.message == (
        f"cannot remove {WHERE}: nobody said yes on standard input; pass --yes in scripts"
    )
    assert is_there(api)
    result = down(tmp_path, "--yes", "--delete-data")
    assert result.exit_code == 0
    assert "are deleted, with all that was deployed" in result.output
    assert api.names(SECRET) == []


def test_down_finds_the_cluster_by_the_context_of_that_time(api, noted, tmp_path):
    assert noted.options.context == "admin@test"
    assert noted.server == api.server


def test_down_leaves_a_cluster_that_the_record_does_not_name(api, noted, tmp_path):
    api.remove(CONFIG_MAP, "skysail-blue")
    asyncio.run(started())
    result = down(tmp_path, "--yes")
    assert isinstance(result.exception, FailedPrecondition)
    assert "is not the one that was started from this data directory" in result.exception.message
    assert is_there(api)
    assert ClusterRecord.read(tmp_path) == noted
    # Options that name the place select the cluster explicitly.
    assert down(tmp_path, "--yes", *EXPLICIT).exit_code == 0
    assert not is_there(api)


@pytest.mark.parametrize("flag", ["--namespace", "--context", "--kubernetes-proxy-addr"])
def test_place_options_need_the_container_manager(api, noted, tmp_path, flag):
    result = down(tmp_path, "--yes", flag, "other")
    assert result.exit_code == 2
    assert f"{flag} goes with --container-manager kubernetes" in result.output
    assert is_there(api)


def test_down_refuses_a_name_that_differs_from_the_record(api, noted, tmp_path):
    result = down(tmp_path, "--yes", "--cluster", "green")
    assert isinstance(result.exception, FailedPrecondition)
    assert result.exception.message == (
        f"cannot remove cluster 'green': {tmp_path} was used last for {WHERE}"
    )


def test_the_record_of_another_cluster_stays(api, noted, tmp_path):
    other = ClusterRecord(type(OPTIONS)("elsewhere", "blue"), "https://192.0.2.9", "uid")
    other.write(tmp_path)
    assert down(tmp_path, "--yes", *EXPLICIT).exit_code == 0
    assert not is_there(api)
    assert ClusterRecord.read(tmp_path) == other


def test_down_reports_a_missing_cluster(api, tmp_path):
    result = down(tmp_path, "--yes", *EXPLICIT)
    assert isinstance(result.exception, FailedPrecondition)
    assert result.exception.message == "cluster 'blue' does not run in namespace 'skysail'"


def test_the_data_of_a_local_cluster_are_a_directory(tmp_path):
    result = down(tmp_path, "--delete-data")
    assert result.exit_code == 2
    assert "delete it after 'skysail down'" in result.output
