import json
import re
from dataclasses import replace
from typing import Any

import pytest

from skysail_common import __version__
from skysail_common.identifiers import MAX_NAME_LENGTH, ModelVersion
from skysail_common.kubernetes.kinds import Object
from skysail_management.containers.base import WarmUp
from skysail_management.containers.kubernetes import manifests, task_pods
from skysail_testing.kubernetes_pods import SHA256, TOKEN, replica_spec, settings, version_spec
from skysail_testing.manifests import conform, why_no_kubeconform

_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
IMAGE = f"skysail-model-server:{__version__}"
COMMON = {
    "app.kubernetes.io/name": "skysail",
    "skysail.ai/cluster": "c",
    "app.kubernetes.io/component": "model-server",
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "privileged": False,
    "readOnlyRootFilesystem": True,
}
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
IDENTITY = [
    {
        "name": "SKYSAIL_REPLICA_INDEX",
        "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['skysail.ai/replica']"}},
    },
    {"name": "SKYSAIL_MODEL_SERVER_REPLICA_ID", "value": "m:1/$(SKYSAIL_REPLICA_INDEX)"},
]
THREADS = dict.fromkeys(
    [
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    ],
    "2",
)
ARTIFACT_DIR = {"name": "SKYSAIL_MODEL_SERVER_ARTIFACT_DIR", "value": "/artifact"}
SERVER_VARIABLES = {
    **THREADS,
    "PYTHONUNBUFFERED": "1",
    "SKYSAIL_MODEL_SERVER_ARTIFACT_SHA256": SHA256,
    "SKYSAIL_MODEL_SERVER_LISTEN_ADDRESS": "0.0.0.0:8005",
    "SKYSAIL_MODEL_SERVER_MEMORY_LIMIT_MIB": "0",
    "SKYSAIL_MODEL_SERVER_NUM_THREADS": "2",
    "SKYSAIL_MODEL_SERVER_LOG_FORMAT": "console",
    "SKYSAIL_MODEL_SERVER_CHECK_HEALTH_S": "0",
    "SKYSAIL_MODEL_SERVER_STUCK_AFTER_S": "0",
    "SKYSAIL_MODEL_SERVER_WARM_UP": "true",
    "SKYSAIL_MODEL_SERVER_WARM_UP_MAX_ROWS": "64",
    "SKYSAIL_MODEL_SERVER_WARM_UP_S": "0.5",
    "SKYSAIL_MODEL_SERVER_WORK_DIR": "/work",
    "SKYSAIL_TRANSPORT": "grpc",
}


@pytest.fixture(autouse=True)
def _transport(monkeypatch):
    monkeypatch.setenv("SKYSAIL_TRANSPORT", "grpc")


def variables(values: dict[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in sorted(values.items())]


def plain(name: str) -> Object:
    """The Kubernetes Deployment of a version that asks for nothing."""
    own = {
        **COMMON,
        "skysail.ai/model": "m",
        "skysail.ai/version": "1",
        "skysail.ai/group": name,
    }
    token = {"secretKeyRef": {"name": name, "key": "token"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "labels": own,
            "annotations": {"skysail.ai/artifact": SHA256},
        },
        "spec": {
            "replicas": 0,
            "revisionHistoryLimit": 0,
            "selector": {"matchLabels": {"skysail.ai/group": name, "skysail.ai/attached": "true"}},
            "template": {
                "metadata": {
                    "labels": {**own, "skysail.ai/attached": "true"},
                    "annotations": {
                        "skysail.ai/artifact": SHA256,
                        "controller.kubernetes.io/pod-deletion-cost": "-1",
                    },
                },
                "spec": {
                    "schedulingGates": [{"name": "skysail.ai/replica"}],
                    "serviceAccountName": "default",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "shareProcessNamespace": True,
                    "securityContext": POD_SECURITY,
                    "terminationGracePeriodSeconds": 32,
                    "initContainers": [
                        {
                            "name": "artifact",
                            "image": IMAGE,
                            "command": ["python", "-m", "skysail_model_server.fetch"],
                            "env": [
                                *IDENTITY,
                                ARTIFACT_DIR,
                                *variables(
                                    {
                                        "PYTHONUNBUFFERED": "1",
                                        "SKYSAIL_MODEL_SERVER_ARTIFACT_SHA256": SHA256,
                                        "SKYSAIL_MODEL_SERVER_LOG_FORMAT": "console",
                                        "SKYSAIL_MODEL_SERVER_MANAGEMENT_ENDPOINT": "management:8006",
                                    }
                                ),
                                {"name": "SKYSAIL_MODEL_SERVER_TOKEN", "valueFrom": token},
                            ],
                            "resources": {
                                "limits": {"cpu": "1", "memory": "256Mi"},
                                "requests": {"cpu": "10m", "memory": "64Mi"},
                            },
                            "securityContext": CONTAINER_SECURITY,
                            "volumeMounts": [{"name": "artifact", "mountPath": "/artifact"}],
                        }
                    ],
                    "containers": [
                        {
                            "name": "model-server",
                            "image": IMAGE,
                            "env": [*IDENTITY, ARTIFACT_DIR, *variables(SERVER_VARIABLES)],
                            "ports": [{"name": "grpc", "containerPort": 8005}],
                            "resources": {},
                            "readinessProbe": {
                                "grpc": {"port": 8005},
                                "periodSeconds": 1,
                                "timeoutSeconds": 5,
                                "failureThreshold": 3,
                            },
                            "lifecycle": {"preStop": {"exec": {"command": ["sleep", "2"]}}},
                            "securityContext": CONTAINER_SECURITY,
                            "volumeMounts": [
                                {"name": "tmp", "mountPath": "/tmp"},
                                {"name": "work", "mountPath": "/work"},
                                {"name": "artifact", "mountPath": "/artifact", "readOnly": True},
                            ],
                            "terminationMessagePolicy": "File",
                        }
                    ],
                    "volumes": [
                        {"name": "tmp", "emptyDir": {"sizeLimit": "512Mi"}},
                        {"name": "work", "emptyDir": {"sizeLimit": "512Mi"}},
                        {"name": "artifact", "emptyDir": {}},
                    ],
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1,
                            "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {
                                "matchLabels": {
                                    "skysail.ai/model": "m",
                                    "skysail.ai/version": "1",
                                }
                            },
                        }
                    ],
                },
            },
        },
    }


def pod_of(manifest: Object) -> Object:
    return manifest["spec"]["template"]["spec"]


def name_of(*arguments: Any, **options: Any) -> str:
    return manifests.deployment(*arguments, **options)["metadata"]["name"]


def test_manifest_of_a_minimal_version():
    made = manifests.deployment(replica_spec(), settings())
    name = made["metadata"]["name"]
    assert re.fullmatch(r"skysail-m-1-[0-9a-f]{10}", name)
    assert made == plain(name)


def test_manifest_of_a_version_with_every_option():
    spec = replica_spec(
        memory_mib=1024,
        cpus=0.2501,
        gpus=2,
        environment={"MODE": "fast", "OMP_NUM_THREADS": "7"},
        stuck_after_s=300.0,
        check_health_s=10.0,
        warm_up=WarmUp(is_on=False, budget_s=2.0, max_rows=1),
        log_format="json",
    )
    toleration = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    made = manifests.deployment(
        spec,
        settings(
            kubernetes_cpus=4,
            kubernetes_memory_mib=10,
            kubernetes_gpus=1,
            kubernetes_gpu_resource="amd.com/gpu",
            kubernetes_node_selector={"disk": "ssd"},
            kubernetes_tolerations=(toleration,),
            kubernetes_service_account="replicas",
            kubernetes_packages_claim="claim",
            kubernetes_scratch_mib=64,
            drain_timeout_s=0.5,
        ),
        packages="0123",
    )
    name = made["metadata"]["name"]
    wanted = plain(name)
    pod = pod_of(wanted)
    (server,) = pod["containers"]
    environment = {
        **SERVER_VARIABLES,
        "MODE": "",
        "PATH": "/packages/0123/bin:/opt/skysail/bin:/usr/local/bin:/usr/bin:/bin",
        "SKYSAIL_MODEL_SERVER_GPUS": "2",
        "SKYSAIL_MODEL_SERVER_MEMORY_LIMIT_MIB": "1024",
        "SKYSAIL_MODEL_SERVER_LOG_FORMAT": "json",
        "SKYSAIL_MODEL_SERVER_CHECK_HEALTH_S": "10",
        "SKYSAIL_MODEL_SERVER_STUCK_AFTER_S": "300",
        "SKYSAIL_MODEL_SERVER_WARM_UP": "false",
        "SKYSAIL_MODEL_SERVER_WARM_UP_MAX_ROWS": "1",
        "SKYSAIL_MODEL_SERVER_WARM_UP_S": "2",
    }
    limits = {"cpu": "251m", "memory": "1024Mi", "amd.com/gpu": "2"}
    of_secret = {"MODE": "environment-0", "OMP_NUM_THREADS": "environment-1"}
    server["env"] = [
        *IDENTITY,
        ARTIFACT_DIR,
        *(
            {
                "name": each["name"],
                "valueFrom": {"secretKeyRef": {"name": name, "key": of_secret[each["name"]]}},
            }
            if each["name"] in of_secret
            else each
            for each in variables(environment)
        ),
    ]
    (fetcher,) = pod["initContainers"]
    (log_format,) = (each for each in fetcher["env"] if each["name"].endswith("LOG_FORMAT"))
    log_format["value"] = "json"
    server["resources"] = {"limits": limits, "requests": limits}
    server["volumeMounts"].append(
        {
            "name": "packages",
            "mountPath": "/packages/0123",
            "subPath": "0123",
            "readOnly": True,
        }
    )
    pod["volumes"] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "work", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "artifact", "emptyDir": {}},
        {"name": "packages", "persistentVolumeClaim": {"claimName": "claim", "readOnly": True}},
    ]
    pod["serviceAccountName"] = "replicas"
    pod["terminationGracePeriodSeconds"] = 3
    pod["nodeSelector"] = {"disk": "ssd"}
    pod["tolerations"] = [toleration]
    assert made == wanted


def test_version_with_its_own_image_fetches_nothing():
    made = manifests.deployment(replica_spec(), settings(), image="registry.example/own:1")
    wanted = plain(made["metadata"]["name"])
    pod = pod_of(wanted)
    del pod["initContainers"]
    pod["volumes"].pop()
    (server,) = pod["containers"]
    server["image"] = "registry.example/own:1"
    server["volumeMounts"].pop()
    server["env"] = [*IDENTITY, *variables(SERVER_VARIABLES)]
    assert made == wanted


@pytest.mark.parametrize(
    ("values", "source"),
    [
        (
            {"kubernetes_cache_host_path": "/var/lib/cache"},
            {"hostPath": {"path": "/var/lib/cache", "type": "DirectoryOrCreate"}},
        ),
        (
            {"kubernetes_cache_claim": "cache"},
            {"persistentVolumeClaim": {"claimName": "cache"}},
        ),
    ],
)
def test_a_pod_sees_of_the_cache_of_its_node_only_its_own_artifact(
    values: dict[str, str], source: Object
):
    made = manifests.deployment(replica_spec(), settings(kubernetes_cache_max_mib=7, **values))
    pod = pod_of(made)
    assert {"name": "artifact", **source} in pod["volumes"]
    (fetcher,), (server,) = pod["initContainers"], pod["containers"]
    names = [each["name"] for each in fetcher["env"]]
    given = {each["name"]: each.get("value") for each in fetcher["env"]}
    assert given["SKYSAIL_MODEL_SERVER_CACHE_DIR"] == "/cache"
    assert given["SKYSAIL_MODEL_SERVER_CACHE_MAX_MIB"] == "7"
    directory = "unpacked/$(SKYSAIL_NODE)/$(SKYSAIL_POD)"
    assert given["SKYSAIL_MODEL_SERVER_ARTIFACT_DIR"] == f"/cache/{directory}"
    # Kubernetes expands only variables that come earlier.
    assert names.index("SKYSAIL_POD") < names.index("SKYSAIL_MODEL_SERVER_ARTIFACT_DIR")
    assert fetcher["volumeMounts"] == [{"name": "artifact", "mountPath": "/cache"}]
    assert ARTIFACT_DIR in server["env"]
    assert {
        "name": "artifact",
        "mountPath": "/artifact",
        "subPathExpr": directory,
        "readOnly": True,
    } in server["volumeMounts"]


def test_limits_default_to_the_settings():
    values = settings(kubernetes_cpus=1.5, kubernetes_memory_mib=64, kubernetes_gpus=1)
    (server,) = pod_of(manifests.deployment(replica_spec(), values))["containers"]
    limits = {"cpu": "1500m", "memory": "64Mi", "nvidia.com/gpu": "1"}
    assert server["resources"] == {"limits": limits, "requests": limits}


def test_secret_and_budget_of_a_kubernetes_deployment():
    assert manifests.replica_secret("n", replica_spec(environment={"B": "$2", "A": "1"}), "c") == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "n", "labels": COMMON},
        "stringData": {"token": TOKEN, "environment-0": "1", "environment-1": "$2"},
    }
    assert manifests.disruption_budget("n", "c") == {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "n", "labels": COMMON},
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"skysail.ai/group": "n", "skysail.ai/attached": "true"}},
        },
    }


def test_the_installer():
    made = task_pods.installer(
        "skysail-install-0123-ab",
        ["install", "/packages/0123"],
        settings(
            kubernetes_packages_claim="claim",
            kubernetes_node_selector={"disk": "ssd"},
            prepare_timeout_s=10.5,
        ),
    )
    assert made == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "skysail-install-0123-ab",
            "labels": {**COMMON, "app.kubernetes.io/component": "installer"},
            "annotations": {"skysail.ai/skysail-version": __version__},
        },
        "spec": {
            "schedulingGates": [{"name": "skysail.ai/variables"}],
            "restartPolicy": "Never",
            "serviceAccountName": "default",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": POD_SECURITY,
            "terminationGracePeriodSeconds": 1,
            "activeDeadlineSeconds": 11,
            "containers": [
                {
                    "name": "installer",
                    "image": IMAGE,
                    "command": [
                        "python", "-m", "skysail_model_server.installer", "install",
                        "/packages/0123",
                    ],
                    "envFrom": [{"secretRef": {"name": "skysail-install-0123-ab"}}],
                    "env": variables({"HOME": "/tmp", "PYTHONUNBUFFERED": "1"}),
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                    "securityContext": CONTAINER_SECURITY,
                    "volumeMounts": [
                        {"name": "packages", "mountPath": "/packages"},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [
                {"name": "packages", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "tmp", "emptyDir": {}},
            ],
            "nodeSelector": {"disk": "ssd"},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "version"),
    [
        ("m", "1"),
        ("M_odel.v2", "2026-11-20T10.00"),
        ("a" * MAX_NAME_LENGTH, "b" * MAX_NAME_LENGTH),
        ("a" * 39, "b"),
        ("A._-._-b" * 7, "9"),
        ("0", "_".join("abc") + "." * 20 + "z"),
    ],
)
def test_names_are_dns_labels(model: str, version: str):
    name = name_of(replica_spec(version_spec(ModelVersion.checked(model, version))), settings())
    assert _DNS_LABEL.match(name), name
    assert "--" not in name


def test_similar_names_stay_distinct():
    pairs = [
        ("a-b", "c"),
        ("a", "b-c"),
        ("a.b", "c"),
        ("A-b", "c"),
        ("a" * 60, "1"),
        ("a" * 60, "2"),
    ]
    names = {name_of(replica_spec(version_spec(ModelVersion(*pair))), settings()) for pair in pairs}
    assert len(names) == len(pairs)


@pytest.mark.parametrize("values", [{"index": 7}, {"warm_up": WarmUp(is_measured=True)}])
def test_index_and_measurements_do_not_change_the_manifest(values):
    assert manifests.deployment(replica_spec(), settings()) == manifests.deployment(
        replica_spec(**values), settings()
    )


SPEC = replica_spec()
OTHERS = {
    "token": (replace(SPEC, token="other"), {}, {}),
    "threads": (replica_spec(num_threads=3), {}, {}),
    "memory": (replica_spec(memory_mib=10), {}, {}),
    "cpus": (replica_spec(cpus=1), {}, {}),
    "gpus": (replica_spec(gpus=1), {}, {}),
    "environment": (replace(SPEC, environment={"A": "1"}), {}, {}),
    "warm-up": (replace(SPEC, warm_up=WarmUp(is_on=False)), {}, {}),
    "endpoint": (replace(SPEC, management_endpoint="other:8006"), {}, {}),
    "artifact": (replace(SPEC, version=version_spec(artifact_sha256="cd" * 32)), {}, {}),
    "image": (SPEC, {}, {"image": "own:1"}),
    "packages": (SPEC, {}, {"packages": "0123"}),
    "base": (SPEC, {"kubernetes_image": "skysail-model-server:9"}, {}),
    "cluster": (SPEC, {"cluster": "d"}, {}),
    "account": (SPEC, {"kubernetes_service_account": "other"}, {}),
    "limit": (SPEC, {"kubernetes_memory_mib": 100}, {}),
    "nodes": (SPEC, {"kubernetes_node_selector": {"disk": "ssd"}}, {}),
    "tolerations": (SPEC, {"kubernetes_tolerations": ({"key": "gpu"},)}, {}),
    "scratch": (SPEC, {"kubernetes_scratch_mib": 1}, {}),
    "drain": (SPEC, {"drain_timeout_s": 1}, {}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_every_difference_changes_the_name(what: str):
    spec, values, options = OTHERS[what]
    assert name_of(spec, settings(**values), **options) != name_of(SPEC, settings())


def test_artifact_of_an_image_changes_the_name():
    other = replace(SPEC, version=version_spec(artifact_sha256="cd" * 32))
    assert name_of(SPEC, settings(), image="own") != name_of(other, settings(), image="own")


@pytest.mark.parametrize("options", [{}, {"image": "own:1"}, {"packages": "0123"}])
def test_environment_values_are_in_the_secret_only(options: dict[str, str]):
    spec = replica_spec(environment={"PASSWORD": "a-password", "PATH": "/a-path"})
    made = manifests.deployment(spec, settings(), **options)
    assert "a-password" not in json.dumps(made)
    (server,) = pod_of(made)["containers"]
    secret = manifests.replica_secret(made["metadata"]["name"], spec, "c")
    values = {
        each["name"]: secret["stringData"][each["valueFrom"]["secretKeyRef"]["key"]]
        for each in server["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    assert values["PASSWORD"] == "a-password"
    # Installed packages have commands of their own.
    assert values.get("PATH") == (None if "packages" in options else "/a-path")


def test_name_does_not_reveal_a_short_secret():
    spec = replica_spec(environment={"PIN": "1234"})
    guesses = {name_of(replace(spec, token=token), settings()) for token in ("", "guess")}
    assert name_of(spec, settings()) not in guesses


def test_dollar_sign_is_escaped():
    (server,) = pod_of(manifests.deployment(replica_spec(management_endpoint="a$(B)"), settings()))[
        "containers"
    ]
    values = {each["name"]: each.get("value") for each in server["env"]}
    # This one is meant to.
    assert values["SKYSAIL_MODEL_SERVER_REPLICA_ID"] == "m:1/$(SKYSAIL_REPLICA_INDEX)"
    names = [each["name"] for each in server["env"]]
    assert len(names) == len(set(names))
    assert names[0] == "SKYSAIL_REPLICA_INDEX"


@pytest.mark.parametrize("options", [{}, {"image": "own:1"}, {"packages": "0123"}])
def test_token_is_in_the_secret_only(options: dict[str, str]):
    made = manifests.deployment(replica_spec(), settings(), **options)
    assert TOKEN not in json.dumps(made)


def samples() -> dict[str, Object]:
    full = settings(
        kubernetes_packages_claim="claim",
        kubernetes_node_selector={"disk": "ssd"},
        kubernetes_tolerations=({"key": "gpu", "operator": "Exists", "tolerationSeconds": 5},),
    )
    spec = replica_spec(memory_mib=100, cpus=0.5, gpus=1, environment={"A": "1"})
    return {
        "plain": manifests.deployment(replica_spec(), settings()),
        "full": manifests.deployment(spec, full, packages="0123"),
        "cache": manifests.deployment(spec, settings(kubernetes_cache_claim="cache")),
        "image": manifests.deployment(spec, full, image="own:1"),
        "secret": manifests.replica_secret("name", spec, "c"),
        "budget": manifests.disruption_budget("name", "c"),
        "installer": task_pods.installer("name", ["install", "/packages/0123"], full),
        "probe": task_pods.probe("name", "base:1", full),
        "variables": task_pods.installer_secret("name", {"A": "$"}, "c"),
    }


def pod_specs() -> dict[str, Object]:
    return {
        name: made["spec"] if made["kind"] == "Pod" else pod_of(made)
        for name, made in samples().items()
        if made["kind"] in ("Pod", "Deployment")
    }


@pytest.mark.parametrize("name", pod_specs())
def test_pods_fit_the_profile_restricted_and_more(name: str):
    """As of the Pod Security Standards, "Restricted"."""
    pod = pod_specs()[name]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    kinds = {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "persistentVolumeClaim"}
    for each in [*pod.get("initContainers", ()), *pod["containers"]]:
        security = each["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"]
        assert not security["privileged"]
        assert all("hostPort" not in port for port in each.get("ports", ()))


def test_kubeconform_accepts_every_manifest():
    if reason := why_no_kubeconform():
        pytest.skip(reason)
    conform(list(samples().values()))
