"""Which image of the model server runs a version on Kubernetes."""

import asyncio
import json
from dataclasses import replace
from typing import cast

import pytest

from skysail_common.identifiers import ModelVersion
from skysail_common.kubernetes.anchor import anchor_manifest
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import ClusterRefused
from skysail_common.kubernetes.kinds import CONFIG_MAP, POD, Object
from skysail_common.kubernetes.labels import labels
from skysail_management.containers.base import PrepareFailed
from skysail_management.containers.kubernetes.images import KubernetesImages
from skysail_management.containers.kubernetes.manager import KubernetesManager
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_pods import container, ended, replica_spec, settings, version_spec
from skysail_testing.virtual_time import now, virtual_time

V311 = version_spec(python_version="3.11.7")
V312 = version_spec(python_version="3.12.1", artifact_sha256="cd" * 32)
NOTE = "skysail-c-packages-images"
UNPULLED = container("probe", waiting={"reason": "ErrImagePull", "message": "connection refused"})


class Parts:
    """A cluster whose nodes have images with these Pythons; others cannot be pulled."""

    def __init__(self, **pythons: str) -> None:
        self.api = FakeKubernetesApi()
        self.api.add(anchor_manifest("c"))
        self.api.on_create = self._run
        self.pythons = {f"{tag}": python for tag, python in pythons.items()}
        self.lines: list[str] = []
        self.num_probes = 0

    def _run(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        self.num_probes += 1
        python = self.pythons.get(pod["spec"]["containers"][0]["image"])
        if python is None:
            status = {"phase": "Pending", "containerStatuses": [UNPULLED]}
            self.api.change(POD, name, status=status)
            return
        self.api.change(POD, name, status={"phase": "Pending"})
        self.api.log_lines[name, "probe", False] = [python.encode()]
        end = [container("probe", terminated=ended(0, "Completed"))]
        status = {"phase": "Succeeded", "containerStatuses": end}
        asyncio.get_running_loop().call_later(1, lambda: self.api.change(POD, name, status=status))

    async def images(self, image: str) -> KubernetesImages:
        """Return the images as the next management sees them, with a setting."""
        client = cast(KubernetesApi, self.api)
        found = KubernetesImages(client, settings(kubernetes_image=image))
        await found.open()
        return found


@virtual_time
async def test_python_of_an_image_is_probed_once():
    parts = Parts(old="3.11.2")
    images = await parts.images("old")
    await asyncio.gather(*(images.prepare(V311, parts.lines.append) for _ in range(3)))
    assert images.image(V311) == "old"
    again = await parts.images("old")
    await again.prepare(V311, parts.lines.append)
    assert parts.num_probes == 1
    assert parts.api.names(POD) == []
    assert parts.lines == []


@virtual_time
async def test_a_version_keeps_its_image_when_the_new_one_has_another_python():
    parts = Parts(old="3.11.2", new="3.12.1")
    await (await parts.images("old")).prepare(V311, parts.lines.append)
    images = await parts.images("new")
    await images.prepare(V311, parts.lines.append)
    assert images.image(V311) == "old"
    assert parts.lines == [
        "m:1 keeps the image old: it needs Python 3.11, and that of new is 3.12.1"
    ]
    await images.prepare(V312, parts.lines.append)
    assert images.image(V312) == "new"
    # A version that never ran has no image to keep.
    with pytest.raises(PrepareFailed, match=r"the image new has Python 3\.12"):
        await images.prepare(replace(V311, artifact_sha256="ef" * 32), parts.lines.append)
    # Neither has another version of the same content.
    with pytest.raises(PrepareFailed, match=r"the image new has Python 3\.12"):
        await images.prepare(
            replace(V311, model_version=ModelVersion("m", "2")), parts.lines.append
        )
    # The next management knows the images before any preparation.
    later = await parts.images("new")
    assert (later.image(V311), later.image(V312)) == ("old", "new")
    # And the way back.
    back = await parts.images("old")
    assert (back.image(V311), back.image(V312)) == ("old", "new")


@virtual_time
async def test_a_new_image_with_the_same_python_takes_over():
    parts = Parts(old="3.11.2", new="3.11.9", other="3.12.1")
    for image in ("old", "new", "other"):
        images = await parts.images(image)
        await images.prepare(V311, parts.lines.append)
    assert images.image(V311) == "new"


@virtual_time
async def test_images_of_removed_versions_are_dropped():
    parts = Parts(old="3.11.2", new="3.12.1")
    await (await parts.images("old")).prepare(V311, parts.lines.append)
    images = await parts.images("new")
    await images.prepare(V312, parts.lines.append)
    await images.sweep(lambda: [V311, V312])
    assert images.image(V311) == "old"
    await images.sweep(lambda: [V312])
    data = parts.api.objects[CONFIG_MAP, NOTE]["data"]
    assert json.loads(data["pythons"]) == {"new": "3.12.1"}
    assert json.loads(data["versions"]) == {f"m:1/{V312.artifact_sha256}": "new"}


@virtual_time
async def test_error_names_the_setting_if_no_image_can_run_a_version():
    parts = Parts(new="3.12.1")
    images = await parts.images("new")
    with pytest.raises(PrepareFailed) as caught:
        await images.prepare(V311, parts.lines.append)
    assert caught.value.message == (
        "m:1 was made with Python 3.11.7, and the image new has Python 3.12: make it with 3.12, or "
        "name an image with Python 3.11 in the setting kubernetes-image"
    )


@virtual_time
async def test_unpullable_image_blocks_only_new_versions():
    parts = Parts(old="3.11.2")
    await (await parts.images("old")).prepare(V311, parts.lines.append)
    images = await parts.images("gone")
    begin = now()
    with pytest.raises(
        PrepareFailed, match=r"cannot find the Python of image gone: .*cannot be pulled"
    ):
        await images.prepare(V312, parts.lines.append)
    assert 30 <= now() - begin < 31
    assert "connection refused" in parts.lines[0]
    await images.prepare(V311, parts.lines.append)
    assert images.image(V311) == "old"
    assert parts.lines[-1].endswith("and that of gone is unknown")
    assert parts.api.names(POD) == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [("", "has no Python: it printed"), ("sh: python: not found", "'sh: python")],
)
@virtual_time
async def test_image_without_python_is_reported(answer: str, text: str):
    images = await Parts(other=answer).images("other")
    with pytest.raises(PrepareFailed, match=text):
        await images.prepare(V311, lambda line: None)


@virtual_time
async def test_forbidden_probe_is_reported():
    parts = Parts(old="3.11.2")
    images = await parts.images("old")
    parts.api.errors["create", "Pod"] = [ClusterRefused("exceeded quota")]
    with pytest.raises(ClusterRefused, match="exceeded quota"):
        await images.prepare(V311, lambda line: None)


@virtual_time
async def test_probes_of_an_earlier_management_are_removed():
    parts = Parts()
    metadata = {"name": "left", "labels": labels("c", "probe")}
    parts.api.add({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}})
    await parts.images("old")
    assert parts.api.names(POD) == []


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"pythons": "{}"},
        {"pythons": "[", "versions": "{}"},
        {"pythons": "[1]", "versions": "{}"},
    ],
)
@virtual_time
async def test_unreadable_table_is_rebuilt(data: dict[str, str]):
    parts = Parts(old="3.11.2")
    parts.api.add(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NOTE}, "data": data}
    )
    images = await parts.images("old")
    await images.prepare(V311, parts.lines.append)
    note = parts.api.objects[CONFIG_MAP, NOTE]
    assert json.loads(note["data"]["pythons"]) == {"old": "3.11.2"}
    assert note["metadata"]["ownerReferences"][0]["name"] == "skysail-c"


@virtual_time
async def test_replacement_pod_has_the_same_deployment_and_image():
    parts = Parts(old="3.11.2", new="3.12.1")
    deployments = []
    for image in ("old", "new"):
        manager = KubernetesManager(
            settings(kubernetes_image=image), cast(KubernetesApi, parts.api)
        )
        await manager.open()
        await manager.prepare(V311, parts.lines.append)
        await manager.start(replica_spec(V311, index=len(deployments)))
        deployments.append(
            {name for _, name in parts.api.objects if name.startswith("skysail-m-1")}
        )
        await manager.close()
    pods = [parts.api.objects[POD, name] for name in parts.api.names(POD)]
    every = [
        each["image"]
        for pod in pods
        for each in (*pod["spec"]["initContainers"], *pod["spec"]["containers"])
    ]
    assert every == ["old"] * 4
