"""Checks of Kubernetes manifests: schemas, and references between objects."""

import functools
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from skysail_common.kubernetes.labels import INSTALLER, LEADER, MODEL_SERVER, labels

Object = dict

ELSEWHERE = {"PodMonitor", "ScaledObject"}
"""Kinds of third-party operators, which have no schemas here."""
NOT_OURS = {("Secret", "skysail-frontend-tls")}
"""Objects that the administrator of the cluster provides."""

# The C loader is ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VARIABLE = re.compile(r"\$\((\w+)\)")


def why_no_kustomize() -> str:
    """Return the reason why manifests cannot be rendered; empty if they can."""
    return "" if shutil.which("kubectl") else "no kubernetes: kubectl is not on this machine"


def why_no_kubeconform() -> str:
    """Return the reason why manifests cannot be checked; empty if they can."""
    program = shutil.which("kubeconform")
    if program is None:
        return "kubeconform is not on this machine"
    return "" if _schemas(program).is_dir() else "kubeconform has no schemas beside it"


def _schemas(program: str) -> Path:
    return Path(program).parent / "schemas"


def kustomized(directory: Path) -> list[Object]:
    """Return the objects of a kustomization."""
    return list(yaml.load_all(_rendered(directory), Loader=_LOADER))


@functools.cache
def _rendered(directory: Path) -> str:
    command = ["kubectl", "kustomize", "--load-restrictor", "LoadRestrictionsNone", str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def conform(objects: list[Object]) -> None:
    """Fail if an object violates its schema."""
    program = shutil.which("kubeconform")
    assert program is not None
    pattern = f"{_schemas(program)}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    done = subprocess.run(
        [program, "-strict", "-summary", "-skip", ",".join(ELSEWHERE), "-schema-location", pattern],
        input=yaml.safe_dump_all(objects), check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


class Manifests:
    """The objects of one cluster."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects
        self.by_name = {(each["kind"], each["metadata"]["name"]): each for each in objects}

    def all(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, component: str = "") -> Object:
        (found,) = (each for each in self.all(kind) if component in ("", _component(each)))
        return found

    def workloads(self) -> list[Object]:
        return [each for each in self.objects if "template" in each.get("spec", {})]

    @property
    def settings(self) -> Mapping[str, str]:
        return self.one("ConfigMap")["data"]

    def variables(self, component: str) -> dict[str, str]:
        """Return the variables of a component's container; a Secret stays a reference."""
        (workload,) = (each for each in self.workloads() if _component(each) == component)
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        found = {}
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                found |= self._object("ConfigMap", source["configMapRef"]["name"])["data"]
        for each in container.get("env", ()):
            value, source = each.get("value"), each.get("valueFrom", {})
            assert (value is None) != (not source), each
            if "configMapKeyRef" in source:
                reference = source["configMapKeyRef"]
                value = self._object("ConfigMap", reference["name"])["data"][reference["key"]]
            elif source.get("fieldRef", {}).get("fieldPath") == "metadata.namespace":
                value = workload["metadata"].get("namespace", "default")
            elif value is not None:
                # Kubernetes expands only variables that are defined earlier.
                value = _VARIABLE.sub(lambda name: found[name[1]], value)
            found[each["name"]] = value if value is not None else str(source)
        return found

    def check(self, cluster: str) -> None:
        """Fail if a reference names no object, or a selector matches no pod."""
        twice = [name for name, count in Counter(map(_identity, self.objects)).items() if count > 1]
        assert not twice
        (namespace,) = {
            each["metadata"].get("namespace")
            for each in self.objects
            if each["kind"] != "PersistentVolume"
        }
        for each in self.objects:
            assert labels(cluster).items() <= each["metadata"]["labels"].items(), _identity(each)
        for workload in self.workloads():
            self._check_pod(workload)
        for reference in self._references():
            assert reference in self.by_name or reference in NOT_OURS, reference
        pods = [*self._pods(cluster)]
        for where, wanted in self._selectors():
            assert any(wanted.items() <= pod.items() for pod in pods), (where, wanted)
            assert labels(cluster).items() <= wanted.items(), (where, wanted)
        for binding in self.all("RoleBinding"):
            for subject in binding["subjects"]:
                assert subject.get("namespace") == namespace
        self._check_volumes()
        self._check_endpoints()

    def _object(self, kind: str, name: str) -> Object:
        return self.by_name[kind, name]

    def _check_pod(self, workload: Object) -> None:
        template = workload["spec"]["template"]
        given = template["metadata"]["labels"]
        if workload["kind"] != "Job":
            assert workload["spec"]["selector"]["matchLabels"].items() <= given.items()
        pod = template["spec"]
        # Kubernetes would set SKYSAIL_MANAGEMENT_PORT to tcp://…, after the Service of this name.
        assert pod["enableServiceLinks"] is False
        assert LEADER not in given
        has_token = pod["automountServiceAccountToken"]
        assert has_token == (_component(workload) == "management")
        volumes = {each["name"] for each in pod["volumes"]}
        every = (*pod.get("initContainers", ()), *pod["containers"])
        mounted = {mount["name"] for each in every for mount in each["volumeMounts"]}
        assert mounted == volumes
        for container in every:
            # An image without a tag would be `latest`, which Kubernetes pulls each time.
            assert ":" in container["image"].rpartition("/")[2], container["image"]
            assert {"requests", "limits"} == container["resources"].keys()
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            ports = {each["name"] for each in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for each in ("httpGet", "tcpSocket"):
                    if named := container.get(probe, {}).get(each):
                        assert named["port"] in ports

    def _references(self) -> Iterator[tuple[str, str]]:
        for workload in self.workloads():
            pod = workload["spec"]["template"]["spec"]
            yield "ServiceAccount", pod["serviceAccountName"]
            for volume in pod["volumes"]:
                if "persistentVolumeClaim" in volume:
                    yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
                if "secret" in volume:
                    yield "Secret", volume["secret"]["secretName"]
            for container in pod["containers"]:
                for source in container.get("envFrom", ()):
                    for kind, key in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                        if key in source:
                            yield kind, source[key]["name"]
                for each in container.get("env", ()):
                    if key := each.get("valueFrom", {}).get("secretKeyRef"):
                        yield "Secret", key["name"]
        for each in self.all("StatefulSet"):
            yield "Service", each["spec"]["serviceName"]
        for each in (*self.all("HorizontalPodAutoscaler"), *self.all("ScaledObject")):
            yield each["spec"]["scaleTargetRef"]["kind"], each["spec"]["scaleTargetRef"]["name"]
        for binding in self.all("RoleBinding"):
            yield binding["roleRef"]["kind"], binding["roleRef"]["name"]
            for subject in binding["subjects"]:
                yield subject["kind"], subject["name"]
        for role in self.all("Role"):
            for rule in role["rules"]:
                for name in rule.get("resourceNames", ()):
                    assert rule["resources"] == ["leases"]
                    yield "Lease", name
        prefix = "SKYSAIL_MANAGEMENT_KUBERNETES"
        yield "Lease", self.settings[f"{prefix}_LEASE"]
        yield "PersistentVolumeClaim", self.settings[f"{prefix}_PACKAGES_CLAIM"]
        yield "ServiceAccount", self.settings[f"{prefix}_SERVICE_ACCOUNT"]

    def _pods(self, cluster: str) -> Iterator[Mapping[str, str]]:
        for workload in self.workloads():
            yield workload["spec"]["template"]["metadata"]["labels"]
            yield {**workload["spec"]["template"]["metadata"]["labels"], LEADER: "true"}
        # Management creates these pods.
        yield labels(cluster, MODEL_SERVER)
        yield labels(cluster, INSTALLER)

    def _selectors(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        for each in self.all("Service"):
            yield each["metadata"]["name"], each["spec"]["selector"]
        for each in (*self.all("PodDisruptionBudget"), *self.all("PodMonitor")):
            yield each["metadata"]["name"], each["spec"]["selector"]["matchLabels"]
        for workload in self.workloads():
            pod = workload["spec"]["template"]["spec"]
            for spread in pod.get("topologySpreadConstraints", ()):
                yield workload["metadata"]["name"], spread["labelSelector"]["matchLabels"]
        for policy in self.all("NetworkPolicy"):
            name, spec = policy["metadata"]["name"], policy["spec"]
            yield name, spec["podSelector"]["matchLabels"]
            for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
                for peer in (*rule.get("from", ()), *rule.get("to", ())):
                    if "podSelector" in peer:
                        yield name, peer["podSelector"]["matchLabels"]

    def _check_volumes(self) -> None:
        volumes = self.all("PersistentVolume")
        for claim in self.all("PersistentVolumeClaim"):
            if wanted := claim["spec"].get("selector", {}).get("matchLabels"):
                (volume,) = (
                    v for v in volumes if wanted.items() <= v["metadata"]["labels"].items()
                )
                assert volume["spec"]["storageClassName"] == claim["spec"]["storageClassName"]
                assert set(claim["spec"]["accessModes"]) <= set(volume["spec"]["accessModes"])

    def _check_endpoints(self) -> None:
        management, frontend = self.variables("management"), self.variables("frontend")
        endpoints = [
            management["SKYSAIL_MANAGEMENT_ADVERTISED_ENDPOINT"],
            frontend["SKYSAIL_FRONTEND_MANAGEMENT_ENDPOINT"],
        ]
        for each in ("GRPC", "HTTP"):
            advertised = frontend[f"SKYSAIL_FRONTEND_ADVERTISED_{each}_ENDPOINT"]
            advertised = advertised.replace(f".{frontend['NAMESPACE']}.svc:", ":")
            # A name with another dot is outside the cluster.
            endpoints += [] if "." in advertised else [advertised]
        if store := re.search(r"@(\S+)/0$", management["SKYSAIL_REDIS_URL"]):
            endpoints.append(store[1])
        for endpoint in endpoints:
            host, _, port = endpoint.rpartition(":")
            service = self._object("Service", host)
            (entry,) = (each for each in service["spec"]["ports"] if each["port"] == int(port))
            (workload,) = (w for w in self.workloads() if _component(w) == _component(service))
            (container,) = workload["spec"]["template"]["spec"]["containers"]
            assert entry["targetPort"] in {each["name"] for each in container["ports"]}


def _component(manifest: Object) -> str:
    return manifest["metadata"]["labels"].get("app.kubernetes.io/component", "")


def _identity(manifest: Object) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]
