"""k8s/ as `kubectl kustomize` renders it."""

import json

import pytest
import yaml

from skysail.clusters.kubernetes.manifest_files import manifests_directory
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail.clusters.kubernetes.overlay import cluster_objects, with_settings_hash
from skysail_common import __version__
from skysail_common.errors import InvalidInput
from skysail_frontend.settings import FrontendSettings
from skysail_management.settings import ManagementSettings
from skysail_testing import manifests
from skysail_testing.kubernetes_clusters import kubernetes_cluster
from skysail_testing.manifests import Manifests

ROOT = manifests_directory()
SHIPPED = ["base", "overlays/local", "overlays/production", "examples/blue", "examples/eks"]
COMPONENTS = sorted(path.name for path in (ROOT / "components").iterdir())

pytestmark = pytest.mark.skipif(
    bool(manifests.why_no_kustomize()), reason=manifests.why_no_kustomize()
)
needs_kubeconform = pytest.mark.skipif(
    bool(manifests.why_no_kubeconform()), reason=manifests.why_no_kubeconform()
)


def cluster_of(name: str) -> str:
    return "blue" if name == "examples/blue" else "default"


@pytest.fixture
def render_kustomization(tmp_path):
    """Render a user's kustomization."""

    def render(content: dict) -> Manifests:
        directory = tmp_path.resolve()
        for key in ("resources", "components"):
            if key in content:
                # kustomize takes no absolute paths.
                up = "../" * len(directory.parts[1:])
                content[key] = [f"{up}{str(ROOT.resolve() / each)[1:]}" for each in content[key]]
        (directory / "kustomization.yaml").write_text(json.dumps(content))
        return Manifests(manifests.kustomized(directory))

    return render


@pytest.mark.parametrize("name", SHIPPED)
@needs_kubeconform
def test_shipped_manifests_conform_to_the_schemas(name):
    manifests.conform(manifests.kustomized(ROOT / name))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_reference_exists(name):
    Manifests(manifests.kustomized(ROOT / name)).check(cluster_of(name))


GREEN = {
    "namespace": "models",
    "nameSuffix": "-green",
    "labels": [
        {
            "pairs": {"skysail.ai/cluster": "green"},
            "includeSelectors": True,
            "includeTemplates": True,
        }
    ],
}


@pytest.mark.parametrize("component", COMPONENTS)
@needs_kubeconform
def test_each_component_works_with_a_name_suffix(render_kustomization, component):
    found = render_kustomization(
        {"resources": ["base"], "components": [f"components/{component}"], **GREEN}
    )
    manifests.conform(found.objects)
    found.check("green")


def test_all_components_work_together_with_a_name_suffix(render_kustomization):
    more = [f"components/{each}" for each in ("local-volumes", "node-ports", "monitoring", "keda")]
    resources = ["overlays/production"]
    render_kustomization({"resources": resources, "components": more, **GREEN}).check("green")


@pytest.mark.parametrize("overlay", ["local", "production"])
@needs_kubeconform
def test_up_gives_each_cluster_its_own_names(overlay):
    seen: set[tuple[str, str, str]] = set()
    for namespace, cluster in [("a", "default"), ("b", "default"), ("b", "blue")]:
        options = KubernetesOptions(namespace=namespace, cluster=cluster, overlay=overlay)
        objects = cluster_objects(options)
        found = Manifests(objects)
        found.check(cluster)
        assert found.settings["SKYSAIL_MANAGEMENT_CLUSTER"] == cluster
        names = {
            (each["metadata"].get("namespace", ""), each["kind"], each["metadata"]["name"])
            for each in objects
        }
        assert not names & seen
        seen |= names
        paths = {
            each["spec"].get("local", each["spec"].get("hostPath"))["path"]
            for each in found.all("PersistentVolume")
        }
        assert all(path.startswith(f"/var/lib/skysail/{namespace}/{cluster}") for path in paths)
    manifests.conform(objects)


def test_example_equals_the_manifests_of_up():
    options = KubernetesOptions(namespace="models", cluster="blue", overlay="local")
    built = sorted(cluster_objects(options), key=str)
    shown = with_settings_hash(manifests.kustomized(ROOT / "examples/blue"))
    assert built == sorted(shown, key=str)


@pytest.fixture
def own_overlay(tmp_path):
    """Return a function that writes an overlay with custom images, and returns its directory."""

    def write(**images: str) -> str:
        directory = tmp_path.resolve() / "overlay"
        directory.mkdir()
        local = "../" * len(directory.parts[1:]) + str((ROOT / "overlays/local").resolve())[1:]
        content = {
            "resources": [local],
            "images": [{"name": "skysail-management", **images}],
        }
        (directory / "kustomization.yaml").write_text(json.dumps(content))
        return str(directory)

    return write


def management_image(**options: str) -> str:
    found = Manifests(cluster_objects(KubernetesOptions(**options)))
    (image,) = (
        container["image"]
        for workload in found.workloads()
        if workload["metadata"]["name"] == "skysail-management"
        for container in workload["spec"]["template"]["spec"]["containers"]
    )
    return image


def test_tag_of_an_overlay_is_kept_with_and_without_a_registry(own_overlay):
    overlay = own_overlay(newTag="mine")
    assert management_image(overlay=overlay) == "skysail-management:mine"
    image = management_image(overlay=overlay, image_registry="registry.example")
    assert image == "registry.example/skysail-management:mine"


def test_registry_conflicts_with_images_of_the_overlay(own_overlay):
    overlay = own_overlay(newName="ecr.example/skysail-management", newTag="1")
    assert management_image(overlay=overlay) == "ecr.example/skysail-management:1"
    with pytest.raises(InvalidInput) as caught:
        management_image(overlay=overlay, image_registry="registry.example/")
    assert caught.value.message == (
        "cannot use --image-registry registry.example: it contradicts the overlay, which names "
        "ecr.example/skysail-management:1; remove one of the two"
    )


def test_registry_prefixes_every_image():
    found = Manifests(
        cluster_objects(KubernetesOptions(image_registry="registry.example:5000/team/"))
    )
    images = [found.settings["SKYSAIL_MANAGEMENT_KUBERNETES_IMAGE"]]
    for workload in found.workloads():
        images += [each["image"] for each in workload["spec"]["template"]["spec"]["containers"]]
    for image in images:
        assert image.startswith("registry.example:5000/team/skysail-")
        assert image.endswith(f":{__version__}")


@pytest.mark.parametrize("name", SHIPPED)
def test_images_have_the_tag_of_this_version(name):
    text = yaml.safe_dump_all(manifests.kustomized(ROOT / name))
    assert text.count(f":{__version__}\n") == text.count("image: ") + 1


@pytest.mark.parametrize("name", SHIPPED)
def test_every_setting_exists(name):
    known = {
        str(field.validation_alias or f"{cls.model_config['env_prefix']}{key}".upper())
        for cls in (FrontendSettings, ManagementSettings)
        for key, field in cls.model_fields.items()
    }
    found = Manifests(manifests.kustomized(ROOT / name))
    for component in ("management", "frontend"):
        named = {each for each in found.variables(component) if each.startswith("SKYSAIL_")}
        assert named <= known


def test_only_frontends_are_exposed():
    found = Manifests(manifests.kustomized(ROOT / "overlays/local"))
    doors = {each["metadata"]["name"] for each in found.all("Service") if "type" in each["spec"]}
    assert doors == {"skysail-frontend"}


@pytest.mark.parametrize("name", SHIPPED)
def test_grpc_clients_find_each_frontend(name):
    found = Manifests(manifests.kustomized(ROOT / name))
    (service,) = (each for each in found.all("Service") if "headless" in each["metadata"]["name"])
    assert service["spec"]["clusterIP"] == "None"
    (port,) = service["spec"]["ports"]
    template = found.one("Deployment", "frontend")["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    # DNS resolves only addresses, so clients dial the port of the pod.
    assert {"name": port["targetPort"], "containerPort": port["port"]} in container["ports"]


@pytest.mark.parametrize("name", SHIPPED)
def test_connections_have_a_maximum_age(name):
    settings = Manifests(manifests.kustomized(ROOT / name)).settings
    assert 30 <= float(settings["SKYSAIL_FRONTEND_MAX_CONNECTION_AGE_S"]) <= 600


def test_secrets_have_no_data():
    for name in SHIPPED:
        for secret in Manifests(manifests.kustomized(ROOT / name)).all("Secret"):
            assert not {"data", "stringData"} & secret.keys()


def test_external_store_removes_the_store():
    found = manifests.kustomized(ROOT / "overlays/production")
    assert not [each for each in found if "store" in json.dumps(each)]


def test_production_spreads_replicated_services():
    found = Manifests(manifests.kustomized(ROOT / "overlays/production"))
    assert found.one("HorizontalPodAutoscaler")["spec"]["minReplicas"] == 3
    assert found.one("Deployment", "management")["spec"]["replicas"] == 2
    for claim in found.all("PersistentVolumeClaim"):
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for deployment in found.all("Deployment"):
        spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {each["topologyKey"] for each in spread} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }


@pytest.mark.kubernetes
@pytest.mark.parametrize("overlay", ["local", "production"])
def test_restricted_namespace_admits_the_manifests(overlay):
    kubernetes = kubernetes_cluster()
    namespace = kubernetes.new_namespace()
    kubernetes.kubectl(
        "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"
    )
    objects = cluster_objects(KubernetesOptions(namespace=namespace, overlay=overlay))
    # Kubernetes only warns about a workload, so the test submits its pod.
    pods = []
    for workload in Manifests(objects).workloads():
        spec = {**workload["spec"]["template"]["spec"], "serviceAccountName": "default"}
        name = f"{workload['kind'].lower()}-{workload['metadata']['name']}"
        metadata = {"name": name, "namespace": namespace}
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    printed = kubernetes.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "--filename", "-",
        stdin=yaml.safe_dump_all([*objects, *pods]),
    )  # fmt: skip
    assert printed.count("created (server dry run)") == len(objects) + len(pods)
