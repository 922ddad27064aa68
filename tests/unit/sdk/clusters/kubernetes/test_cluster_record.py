import json
from pathlib import Path

import pytest

from skysail.clusters.kubernetes.cluster_record import ClusterRecord, remove_record
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.settings import KUBERNETES_RECORD

OPTIONS = KubernetesOptions("n", "c", "/k", "x", "", "production", "registry.example/team")
NOTE = ClusterRecord(OPTIONS, "https://192.0.2.1:6443", "uid-1")


def test_a_record_replaces_the_previous_one(tmp_path: Path):
    directory = tmp_path / "data"
    assert ClusterRecord.read(directory) is None
    NOTE.write(directory)
    assert ClusterRecord.read(directory) == NOTE
    other = ClusterRecord(KubernetesOptions("other"), "https://192.0.2.2", "uid-2")
    other.write(directory)
    assert ClusterRecord.read(directory) == other
    assert [path.name for path in directory.iterdir()] == [KUBERNETES_RECORD]
    remove_record(directory)
    remove_record(directory)
    assert ClusterRecord.read(directory) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        json.dumps({"options": {"unknown": 1}, "server": "", "anchor_uid": ""}),
    ],
)
def test_an_unreadable_record_is_ignored(tmp_path: Path, text: str):
    (tmp_path / KUBERNETES_RECORD).write_text(text)
    assert ClusterRecord.read(tmp_path) is None


@pytest.mark.parametrize(
    ("options", "where", "flags"),
    [
        (OPTIONS, "context 'x' (https://192.0.2.1:6443)", "n --cluster c --context x"),
        (KubernetesOptions("n"), "https://192.0.2.1:6443", "n"),
        (
            KubernetesOptions("n", proxy_addr="127.0.0.1:8001"),
            "https://192.0.2.1:6443",
            "n --kubernetes-proxy-addr 127.0.0.1:8001",
        ),
    ],
)
def test_a_record_names_the_cluster_and_the_command_that_removes_it(
    options: KubernetesOptions, where: str, flags: str
):
    note = ClusterRecord(options, NOTE.server, "uid")
    assert note.where == f"cluster '{options.cluster}' in namespace 'n' of {where}"
    assert note.down_command == (f"skysail down --container-manager kubernetes --namespace {flags}")
