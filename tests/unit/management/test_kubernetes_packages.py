import asyncio
import hashlib
from typing import Any, cast

import pytest

from skysail_common.kubernetes.anchor import anchor_manifest
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import ClusterRefused
from skysail_common.kubernetes.kinds import CONFIG_MAP, POD, Object
from skysail_management.containers.base import PrepareFailed
from skysail_management.containers.kubernetes.images import KubernetesImages
from skysail_management.containers.kubernetes.packages import KubernetesPackages
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_pods import container, ended, settings, version_spec
from skysail_testing.virtual_time import now, settle, virtual_time

NUMPY = version_spec(requirements=("numpy==2.0", "--no-deps"))
OTHER = version_spec(requirements=("scipy==1.0",))


class Parts:
    def __init__(self, claim: str = "claim") -> None:
        self.api = FakeKubernetesApi()
        self.api.add(anchor_manifest("c"))
        self.lines: list[str] = []
        self.statuses: list[Any] = []
        """How the next installers end; 0 where nothing is said, and None for not at all."""
        self.made: list[Object] = []
        self.api.on_create = self._run
        self.packages = self.mounted_packages(self.api, claim)

    @staticmethod
    def mounted_packages(api: FakeKubernetesApi, claim: str = "claim") -> KubernetesPackages:
        """As one management sees them."""
        own = settings(kubernetes_packages_claim=claim, kubernetes_image="base:1")
        client = cast(KubernetesApi, api)
        return KubernetesPackages(client, own, KubernetesImages(client, own))

    def _run(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        self.made.append(pod)
        self.api.change(POD, name, status={"phase": "Pending"})
        status = self.statuses.pop(0) if self.statuses else 0
        if status is None:
            return
        self.api.log_lines[name, "installer", False] = [
            b"Collecting numpy",
            b"ERROR: no such package" if status else b"Successfully installed numpy",
        ]
        end = [container("installer", terminated=ended(status))]
        phase = "Failed" if status else "Succeeded"
        loop = asyncio.get_running_loop()
        loop.call_later(1, self._tell, name, {"phase": "Running"})
        loop.call_later(2, self._tell, name, {"phase": phase, "containerStatuses": end})

    def _tell(self, name: str, status: Object) -> None:
        if (POD, name) in self.api.objects:
            self.api.change(POD, name, status=status)

    async def prepare(self, version: Any = NUMPY) -> None:
        await self.packages.prepare(version, self.lines.append)

    @property
    def commands(self) -> list[list[str]]:
        return [pod["spec"]["containers"][0]["command"][3:] for pod in self.made]

    def metadata(self, pod: str) -> Object:
        return cast(Object, self.api.objects[POD, pod]["metadata"])

    @property
    def notes(self) -> list[str]:
        return [name for name in self.api.names(CONFIG_MAP) if name != "skysail-c"]


def test_key_covers_all_inputs_of_an_environment():
    packages = Parts().packages
    text = "base:1\x003.11\0--no-deps\nnumpy==2.0"
    assert packages.key(NUMPY) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert packages.key(version_spec()) == ""


@pytest.mark.parametrize(
    ("values", "is_same"),
    [
        ({"requirements": ("--no-deps", "numpy == 2.0")}, True),
        ({"artifact_sha256": "cd" * 32}, True),
        ({"python_version": "3.11.9"}, True),
        ({"python_version": "3.12.2"}, False),
        ({"requirements": ("numpy==2.1", "--no-deps")}, False),
        ({"requirements": ("numpy==2.0",)}, False),
    ],
)
def test_versions_with_the_same_packages_share_them(values: dict[str, Any], is_same: bool):
    packages = Parts().packages
    version = version_spec(**{"requirements": NUMPY.requirements, **values})
    assert (packages.key(version) == packages.key(NUMPY)) is is_same


@virtual_time
async def test_packages_are_installed_once_and_recorded():
    parts = Parts()
    await parts.prepare()
    key = parts.packages.key(NUMPY)
    assert parts.commands == [["install", f"/packages/{key}"]]
    assert parts.lines == ["Collecting numpy", "Successfully installed numpy"]
    assert parts.api.names(POD) == []
    (name,) = parts.notes
    assert name == f"skysail-c-packages-{key}"
    note = parts.api.objects[CONFIG_MAP, name]
    requirements = "numpy==2.0\n--no-deps\n"
    assert note["data"] == {"key": key, "requirements": requirements, "installed": "true"}
    anchor = parts.api.objects[CONFIG_MAP, "skysail-c"]["metadata"]["uid"]
    for each in (note, parts.made[0]):
        assert [owner["uid"] for owner in each["metadata"]["ownerReferences"]] == [anchor]
    await parts.prepare()
    assert len(parts.made) == 1
    assert parts.lines[-1] == f"environment {key} is ready"


@virtual_time
async def test_installer_gets_requirements_and_package_indexes(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example")
    parts = Parts()
    await parts.prepare()
    (installer,) = parts.made[0]["spec"]["containers"]
    assert installer["envFrom"] == [{"secretRef": {"name": parts.made[0]["metadata"]["name"]}}]
    # The index may contain a password, which pods must not show.
    assert "index.example" not in str(parts.made)
    secrets = [each for each in parts.api.applied if each["kind"] == "Secret"]
    values = secrets[0]["stringData"]
    # The pod owns the Secret and waits for it.
    assert secrets[0]["metadata"]["ownerReferences"][0]["kind"] == "Pod"
    assert parts.made[0]["spec"]["schedulingGates"]
    assert values["SKYSAIL_REQUIREMENTS"] == "numpy==2.0\n--no-deps\n"
    assert values["PIP_INDEX_URL"] == "https://index.example"


@virtual_time
async def test_concurrent_preparations_install_once():
    parts = Parts()
    await asyncio.gather(*(parts.prepare() for _ in range(3)), parts.prepare(OTHER))
    assert len(parts.made) == 2


@virtual_time
async def test_a_version_without_requirements_needs_nothing():
    parts = Parts(claim="")
    await parts.prepare(version_spec())
    assert parts.api.calls == []


@virtual_time
async def test_packages_need_a_volume():
    parts = Parts(claim="")
    with pytest.raises(PrepareFailed) as caught:
        await parts.prepare()
    assert caught.value.message == (
        "cannot install the packages of m:1: no volume for them is configured; set "
        "kubernetes-packages-claim to a claim, or docker-registry to a registry for images with the "
        "packages"
    )


@pytest.mark.parametrize("line", ["/srv/own-1.0.whl", "own @ file:///srv/own-1.0.whl"])
@virtual_time
async def test_local_files_are_rejected(line: str):
    parts = Parts()
    with pytest.raises(PrepareFailed) as caught:
        await parts.prepare(version_spec(requirements=("numpy", line)))
    assert caught.value.message == (
        "cannot install /srv/own-1.0.whl for m:1: pods do not see this file; put it on a package "
        "index, or build images with the setting docker-registry"
    )
    assert parts.made == []


@virtual_time
async def test_failure_of_pip_is_reported_and_retried_by_the_next_deploy():
    parts = Parts()
    parts.statuses = [1]
    with pytest.raises(PrepareFailed) as caught:
        await parts.prepare()
    assert caught.value.message == "cannot install the requirements: no such package"
    assert caught.value.log_tail == "Collecting numpy\nERROR: no such package"
    assert parts.api.names(POD) == []
    await parts.prepare()
    assert len(parts.made) == 2
    assert len(parts.notes) == 1


@virtual_time
async def test_files_of_an_interrupted_installer_are_swept():
    parts = Parts()
    parts.statuses = [None]
    preparing = asyncio.create_task(parts.prepare())
    await settle()
    preparing.cancel()
    await asyncio.gather(preparing, return_exceptions=True)
    await Parts.mounted_packages(parts.api).sweep(lambda: [], lambda: [])
    assert parts.commands[1:] == [["remove", f"/packages/{parts.packages.key(NUMPY)}"]]
    assert parts.notes == []


@virtual_time
async def test_failed_removal_is_retried_and_the_environment_unused(caplog):
    parts = Parts()
    for version in (NUMPY, OTHER):
        await parts.prepare(version)
    parts.statuses = [1]
    await parts.packages.sweep(lambda: [], lambda: [])
    (name,) = parts.notes
    assert parts.api.objects[CONFIG_MAP, name]["data"]["installed"] == "false"
    assert "packages not removed" in caplog.text
    await parts.packages.sweep(lambda: [], lambda: [])
    assert parts.notes == []


@pytest.mark.parametrize("status", [1, 137], ids=["pip failed", "killed"])
@virtual_time
async def test_files_of_a_failed_installer_are_swept(status: int):
    parts = Parts()
    parts.statuses = [status]
    with pytest.raises(PrepareFailed):
        await parts.prepare()
    await parts.packages.sweep(lambda: [], lambda: [])
    assert parts.commands[1:] == [["remove", f"/packages/{parts.packages.key(NUMPY)}"]]
    assert parts.notes == []


@virtual_time
async def test_installer_that_does_not_start_fails_with_the_reason():
    parts = Parts()
    parts.statuses = [None]
    began = now()
    preparing = asyncio.create_task(parts.prepare())
    await settle()
    waiting = {"reason": "ErrImagePull", "message": "no such host"}
    status = {"phase": "Pending", "containerStatuses": [container("installer", waiting=waiting)]}
    for _ in range(2):
        parts.api.change(POD, parts.made[0]["metadata"]["name"], status=status)
        await settle()
    (line,) = parts.lines
    assert line.endswith("cannot be pulled: no such host")
    with pytest.raises(PrepareFailed) as caught:
        await preparing
    assert caught.value.message == (f"cannot install packages: no pod started within 900 s: {line}")
    assert now() - began == pytest.approx(900, abs=1)
    assert parts.api.names(POD) == []


@virtual_time
async def test_forbidden_installer_is_reported():
    parts = Parts()
    parts.api.errors["create", "Pod"] = [ClusterRefused("exceeded quota: small")]
    with pytest.raises(PrepareFailed, match="cannot install packages: exceeded quota: small"):
        await parts.prepare()


@virtual_time
async def test_removed_installer_counts_as_failed():
    parts = Parts()
    parts.statuses = [None]
    preparing = asyncio.create_task(parts.prepare())
    await settle()
    name = parts.made[0]["metadata"]["name"]
    parts.api.change(POD, name, status={"phase": "Running"})
    await settle()
    parts.api.remove(POD, name)
    with pytest.raises(PrepareFailed, match="cannot install packages"):
        await preparing


@virtual_time
async def test_installer_past_its_deadline_has_failed():
    parts = Parts()
    parts.statuses = [None]
    preparing = asyncio.create_task(parts.prepare())
    await settle()
    message = "Pod was active on the node longer than the specified deadline"
    status = {"phase": "Failed", "reason": "DeadlineExceeded", "message": message}
    parts.api.change(POD, parts.made[0]["metadata"]["name"], status=status)
    with pytest.raises(PrepareFailed, match=f"cannot install packages: {message}"):
        await preparing


@virtual_time
async def test_unneeded_environment_is_swept():
    parts = Parts()
    await parts.prepare()
    await parts.prepare(OTHER)
    await parts.packages.sweep(lambda: [NUMPY, version_spec()], lambda: [])
    other = parts.packages.key(OTHER)
    assert parts.commands[2:] == [["remove", f"/packages/{other}"]]
    assert parts.notes == [f"skysail-c-packages-{parts.packages.key(NUMPY)}"]
    await parts.prepare(OTHER)
    assert parts.commands[3:] == [["install", f"/packages/{other}"]]


@virtual_time
async def test_mounted_environment_is_kept():
    parts = Parts()
    await parts.prepare()
    key = parts.packages.key(NUMPY)
    # An earlier Skysail's replicas have what the versions of today do not name.
    await parts.packages.sweep(lambda: [], lambda: [key])
    assert len(parts.notes) == 1
    await parts.packages.sweep(lambda: [], lambda: [])
    assert parts.notes == []


def left_installer(name: str) -> Object:
    ours = {"app.kubernetes.io/name": "skysail", "skysail.ai/cluster": "c"}
    metadata = {"name": name, "labels": {**ours, "app.kubernetes.io/component": "installer"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": {}}


@virtual_time
async def test_leftover_installer_ends_before_a_new_one():
    parts = Parts()
    earlier = f"skysail-install-{parts.packages.key(NUMPY)}-ab"
    other = f"skysail-install-{parts.packages.key(OTHER)}-ab"
    for name in (earlier, other):
        parts.api.add(left_installer(name))
    # The earlier installer gets time to end.
    parts.api.ends_pods = False
    preparing = asyncio.create_task(parts.prepare())
    await settle()
    told = [name for name in (earlier, other) if "deletionTimestamp" in parts.metadata(name)]
    assert (told, parts.made) == ([earlier], [])
    parts.api.ends_pods = True
    parts.api.remove(POD, earlier)
    await preparing
    assert len(parts.made) == 1


@virtual_time
async def test_wait_for_an_earlier_installer_is_bounded():
    parts = Parts()
    parts.api.add(left_installer(f"skysail-install-{parts.packages.key(NUMPY)}-ab"))
    parts.api.ends_pods = False
    with pytest.raises(PrepareFailed, match=r"the earlier pod .* does not end"):
        await parts.prepare()
    assert parts.made == []


@virtual_time
async def test_leftover_installers_are_swept_but_not_active_ones():
    parts = Parts()
    parts.api.add(left_installer("left"))
    preparing = asyncio.create_task(parts.prepare())
    await settle()
    await parts.packages.sweep(lambda: [], lambda: [])
    assert len(parts.api.names(POD)) == 2
    await preparing
    await parts.packages.sweep(lambda: [NUMPY], lambda: [])
    assert parts.api.names(POD) == []


@virtual_time
async def test_environment_needed_during_a_sweep_is_kept():
    parts = Parts()
    for version in (NUMPY, OTHER):
        await parts.prepare(version)
    removed: list[str] = []

    def needed() -> list[Any]:
        # A version with the others is registered while the first ones are being removed.
        begun = {command[1] for command in parts.commands if command[0] == "remove"}
        removed[:] = sorted(begun)
        keys = {f"/packages/{parts.packages.key(each)}": each for each in (NUMPY, OTHER)}
        return [each for path, each in keys.items() if begun and path not in begun]

    await parts.packages.sweep(needed, lambda: [])
    assert len(removed) == 1
    (kept,) = needed()
    assert [note["data"]["key"] for note in await parts.api.list(CONFIG_MAP, {})
            if "installed" in note.get("data", {})] == [parts.packages.key(kept)]  # fmt: skip
    parts.lines.clear()
    await parts.prepare(kept)
    assert parts.lines == [f"environment {parts.packages.key(kept)} is ready"]


@virtual_time
async def test_emptied_volume_is_reinstalled_after_a_failure():
    parts = Parts()
    await parts.prepare()
    await parts.packages.prepare(NUMPY, parts.lines.append, verifies=True)
    path = f"/packages/{parts.packages.key(NUMPY)}"
    # The installer leaves what is whole alone.
    assert parts.commands == [["install", path]] * 2
    parts.statuses = [1]
    with pytest.raises(PrepareFailed):
        await parts.packages.prepare(NUMPY, parts.lines.append, verifies=True)
    # The record of a removed environment is removed.
    await parts.prepare()
    assert parts.commands == [["install", path]] * 4
