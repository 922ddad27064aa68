import json
from pathlib import Path

import pytest
import yaml

from skysail.clusters.kubernetes.manifest_files import manifests_directory
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.kubernetes.overlay import (
    SETTINGS,
    _rank,
    cluster_objects,
    kustomization,
    with_settings_hash,
)
from skysail_common.errors import FailedPrecondition, InvalidInput
from skysail_common.kubernetes.kinds import Object
from skysail_common.kubernetes.labels import CLUSTER


@pytest.mark.parametrize("name", ["My", "a_b", "a.b", "-a", "a-", "a b", "", "a/b", "a" * 64])
@pytest.mark.parametrize("what", ["cluster", "namespace"])
def test_names_that_kubernetes_does_not_allow_are_refused(what: str, name: str):
    with pytest.raises(InvalidInput, match=f"{what} "):
        KubernetesOptions(**{what: name}).checked()


def test_the_names_of_all_objects_of_a_cluster_fit():
    options = KubernetesOptions("n" * 63, "c" * 38)
    assert options.checked() is options
    assert len(f"skysail-store{options.suffix}-0123456789") <= 63
    with pytest.raises(InvalidInput, match="1 to 38 lower-case letters, digits and '-'"):
        KubernetesOptions(cluster="c" * 39).checked()


def test_only_the_default_cluster_has_names_without_a_suffix():
    assert KubernetesOptions().suffix == ""
    assert KubernetesOptions(cluster="blue").suffix == "-blue"


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({}, []),
        ({"kubeconfig": "/k", "context": "x"}, ["--kubeconfig", "/k", "--context", "x"]),
        ({"context": "x"}, ["--context", "x"]),
        (
            {"kubeconfig": "/k", "context": "x", "proxy_addr": "127.0.0.1:8001"},
            ["--server", "http://127.0.0.1:8001"],
        ),
    ],
)
def test_kubectl_reaches_the_same_cluster(options: dict[str, str], flags: list[str]):
    made = KubernetesOptions("n", **options).kubectl()
    assert made == ["kubectl", "--namespace", "n", *flags]


def test_the_kustomization_around_an_overlay():
    options = KubernetesOptions("n", "blue", image_registry="registry.example:5000/team/")
    made = kustomization(options, "../overlay", "../names.yaml")
    (patch,) = made.pop("patches")
    assert patch["target"] == {"kind": "ConfigMap", "name": "skysail-settings"}
    settings = json.loads(patch["patch"])
    assert settings["data"] == {"SKYSAIL_MANAGEMENT_CLUSTER": "blue"}
    assert made == {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../overlay"],
        "namespace": "n",
        "nameSuffix": "-blue",
        "labels": [
            {"pairs": {CLUSTER: "blue"}, "includeSelectors": True, "includeTemplates": True}
        ],
        "replacements": [{"path": "../names.yaml"}],
        "images": [
            {
                "name": f"skysail-{each}",
                "newName": f"registry.example:5000/team/skysail-{each}",
            }
            for each in ("management", "frontend", "model-server", "store")
        ],
    }


def test_without_a_registry_the_images_are_those_of_the_overlay():
    made = kustomization(KubernetesOptions(), "../overlay", "../names.yaml")
    assert "nameSuffix" not in made
    assert "images" not in made


def test_objects_come_before_those_that_need_them():
    kinds = ["Deployment", "PodMonitor", "Service", "Secret", "Namespace", "ServiceAccount"]
    objects = [{"apiVersion": "v1", "kind": kind} for kind in kinds]
    assert [each["kind"] for each in sorted(objects, key=_rank)] == [
        "Namespace", "ServiceAccount", "Secret", "Service", "Deployment", "PodMonitor",
    ]  # fmt: skip


def test_an_unknown_overlay_is_refused(tmp_path: Path):
    with pytest.raises(
        InvalidInput, match=r"cannot find the overlay .*; name local, production, or a directory"
    ):
        cluster_objects(KubernetesOptions(overlay=str(tmp_path)))


def test_without_kubectl_there_are_no_manifests(tmp_path: Path, monkeypatch):
    (tmp_path / "kustomization.yaml").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FailedPrecondition, match="kubectl is not installed"):
        cluster_objects(KubernetesOptions(overlay=str(tmp_path)))


def test_frontends_on_kubernetes_renew_connections_by_default():
    text = (manifests_directory() / "base" / "settings.yaml").read_text()
    data = yaml.safe_load(text)["data"]
    assert float(data["SKYSAIL_FRONTEND_MAX_CONNECTION_AGE_S"]) > 0


def workload(kind: str = "Deployment", **container: object) -> Object:
    pod = {"containers": [{"name": "c", **container}]}
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "w"},
        "spec": {"template": {"metadata": {"annotations": {"a": "b"}}, "spec": pod}},
    }  # fmt: skip


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def hashes(*objects: Object) -> list[str]:
    found = with_settings_hash(objects)
    return [
        each["spec"]["template"]["metadata"]["annotations"].get(SETTINGS, "")
        for each in found
        if "spec" in each
    ]


def test_pods_are_rolled_when_a_setting_changes_that_they_read():
    all_of_it = workload(
        envFrom=[{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "s"}}]
    )
    key = {"name": "V", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "A"}}}
    one_key = workload(env=[{"name": "W", "value": "x"}, key])
    nothing = workload(env=[{"name": "V", "value": "x"}])
    job = workload("Job", envFrom=[{"configMapRef": {"name": "settings"}}])
    objects = (all_of_it, one_key, nothing, job)
    first = hashes(config_map("settings", A="1", B="2"), *objects)
    assert first[0] == first[1] != ""
    assert first[2:] == ["", ""]
    assert first == hashes(
        config_map("settings", B="2", A="1"), config_map("other", C="3"), *objects
    )
    assert first[0] != hashes(config_map("settings", A="1", B="3"), *objects)[0]
    (made,) = with_settings_hash([all_of_it])
    assert made == all_of_it
    annotated = with_settings_hash([config_map("settings"), all_of_it])[1]
    assert annotated["spec"]["template"]["metadata"]["annotations"].keys() == {"a", SETTINGS}
    assert SETTINGS not in all_of_it["spec"]["template"]["metadata"]["annotations"]
