import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from skysail_common.errors import ContainerManagerUnavailable, SkysailError
from skysail_common.kubernetes.api import KubernetesApi, WatchEvent
from skysail_common.kubernetes.errors import ClusterRefused
from skysail_common.kubernetes.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    POD,
    SECRET,
    Object,
)
from skysail_management.containers.kubernetes import manifests
from skysail_management.containers.kubernetes.pod_states import is_attached, is_claimed, is_free
from skysail_management.containers.kubernetes.pods import KubernetesPods
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_pods import replica_spec, settings
from skysail_testing.virtual_time import now, pass_time, settle, until, virtual_time

MANIFEST = manifests.deployment(replica_spec(), settings())
NAME = MANIFEST["metadata"]["name"]


class Parts:
    def __init__(self, api: FakeKubernetesApi) -> None:
        self.api = api
        self.told: list[tuple[str, Object | None]] = []
        self.pods = KubernetesPods(cast(KubernetesApi, api), "c", self._on_change)

    def _on_change(self, name: str, pod: Object | None) -> None:
        if pod is not None and is_claimed(pod):
            # The manager does the same.
            int(pod["metadata"]["labels"][manifests.GATE])
        self.told.append((name, pod))

    async def claim(self, index: int = 0) -> str:
        pod = await self.pods.claim(replica_spec(index=index), MANIFEST)
        return pod["metadata"]["name"]

    @property
    def num_wanted(self) -> int:
        return self.api.objects[DEPLOYMENT, NAME]["spec"]["replicas"]

    def index_of(self, name: str) -> str | None:
        return self.api.objects[POD, name]["metadata"]["labels"].get(manifests.GATE)

    def free(self) -> list[str]:
        return [name for name in self.api.names(POD) if is_free(self.api.objects[POD, name])]


@asynccontextmanager
async def followed(api: FakeKubernetesApi | None = None) -> AsyncIterator[Parts]:
    parts = Parts(api or FakeKubernetesApi())
    await parts.pods.open()
    following = asyncio.create_task(parts.pods.follow())
    try:
        yield parts
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


@virtual_time
async def test_a_claim_gives_a_pod_its_index_and_opens_the_gate():
    async with followed() as parts:
        name = await parts.claim(4)
        pod = parts.api.objects[POD, name]
        assert parts.index_of(name) == "4"
        assert "schedulingGates" not in pod["spec"]
        notes = pod["metadata"]["annotations"]
        assert notes[manifests.DELETION_COST] == "1"
        assert notes[manifests.STARTED_AT].endswith("+00:00")
        assert parts.pods.pods[name] == pod
        assert parts.num_wanted == 1


@virtual_time
async def test_objects_of_a_claim_belong_to_the_anchor():
    async with followed() as parts:
        await parts.claim()
        objects = parts.api.objects
        anchor = objects[CONFIG_MAP, "skysail-c"]["metadata"]["uid"]
        made = objects[DEPLOYMENT, NAME]["metadata"]
        assert [each["uid"] for each in made["ownerReferences"]] == [anchor]
        for kind in (SECRET, DISRUPTION_BUDGET):
            owners = objects[kind, NAME]["metadata"]["ownerReferences"]
            assert [each["uid"] for each in owners] == [made["uid"]]
        parts.api.remove(CONFIG_MAP, "skysail-c")
        assert not parts.api.objects


@virtual_time
async def test_concurrent_claims_get_different_pods():
    async with followed() as parts:
        names = await asyncio.gather(*(parts.claim(index) for index in range(5)))
        assert {parts.index_of(name) for name in names} == {"0", "1", "2", "3", "4"}
        await settle()
        await parts.pods.sweep()
        assert parts.num_wanted == 5
        assert len(parts.api.names(POD)) == 5
        # Made once, however many want it.
        assert len(parts.api.called("apply", DEPLOYMENT)) == 1


@virtual_time
async def test_pod_claimed_by_another_is_skipped():
    async with followed() as parts:
        parts.api.errors["patch", "Pod"] = [ClusterRefused("the test failed")]
        claim = asyncio.create_task(parts.claim())
        await settle()
        assert not claim.done()
        (lost,) = parts.api.names(POD)
        parts.api.remove(POD, lost)
        assert await claim != lost


@virtual_time
async def test_new_pod_is_found_after_a_lost_claim():
    async with followed() as parts:
        api = parts.api
        patch = api.patch

        async def slow(kind, name, change, subresource=""):
            if kind == POD:
                api.patch = patch
                await pass_time(1)
                raise ClusterRefused("the test failed")
            return await patch(kind, name, change, subresource)

        api.patch = slow
        claim = asyncio.create_task(parts.claim())
        await settle()
        (lost,) = api.names(POD)
        api.change(DEPLOYMENT, NAME, spec={**api.objects[DEPLOYMENT, NAME]["spec"], "replicas": 2})
        await settle()
        assert len(parts.pods.pods) == 2
        # No other event wakes the claim.
        await until(claim.done, within_s=2)
        assert await claim != lost


@virtual_time
async def test_waiting_pod_is_claimed_first():
    async with followed() as parts:
        first = await parts.claim()
        parts.api.remove(POD, first)
        await settle()
        (waits,) = parts.free()
        assert await parts.claim() == waits
        assert parts.num_wanted == 1


@virtual_time
async def test_deleted_kubernetes_deployment_is_recreated():
    async with followed() as parts:
        first = await parts.claim()
        parts.api.remove(DEPLOYMENT, NAME)
        await settle()
        assert parts.pods.pods == {}
        assert parts.told[-1] == (first, None)
        names = await asyncio.gather(*(parts.claim(index) for index in range(3)))
        assert len(set(names)) == 3
        assert parts.num_wanted == 3
        assert set(parts.api.names(SECRET)) == {NAME}


@virtual_time
async def test_claim_corrects_the_scale():
    async with followed() as parts:
        await parts.claim()
        spec = parts.api.objects[DEPLOYMENT, NAME]["spec"]
        parts.api.change(DEPLOYMENT, NAME, spec={**spec, "replicas": 0})
        await settle()
        assert parts.pods.pods == {}
        await parts.claim()
        assert parts.num_wanted == 1


@virtual_time
async def test_stale_report_does_not_undo_a_claim():
    async with followed() as parts:
        name = await parts.claim()
        stale = {
            **MANIFEST["spec"]["template"],
            "metadata": {**MANIFEST["spec"]["template"]["metadata"], "name": name},
        }
        parts.api.send(WatchEvent(None, {"apiVersion": "v1", "kind": "Pod", "status": {}, **stale}))
        await settle()
        assert is_claimed(parts.pods.pods[name])
        assert parts.index_of(await parts.claim(1)) == "1"


@virtual_time
async def test_reused_pod_name_is_not_claimed():
    async with followed() as parts:
        name = await parts.claim()
        parts.api.remove(POD, name)
        await settle()
        template = MANIFEST["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "status": {}, **template}
        parts.api.add({**pod, "metadata": {**template["metadata"], "name": name}})
        await settle()
        assert is_free(parts.pods.pods[name])


@virtual_time
async def test_released_pod_keeps_running_and_is_not_replaced():
    async with followed() as parts:
        names = [await parts.claim(index) for index in range(3)]
        await parts.pods.release(names[1])
        await settle()
        assert parts.num_wanted == 2
        assert sorted(parts.api.names(POD)) == sorted(names)
        assert not is_attached(parts.pods.pods[names[1]])
        await parts.pods.delete(names[1], 30)
        await settle()
        assert sorted(parts.pods.pods) == sorted([names[0], names[2]])


@virtual_time
async def test_scale_waits_for_the_detachment_of_a_released_pod():
    async with followed() as parts:
        first, second = await parts.claim(0), await parts.claim(1)
        parts.api.has_controllers = False
        release = asyncio.create_task(parts.pods.release(first))
        await pass_time(5)
        assert not release.done()
        assert parts.num_wanted == 2
        parts.api.control()
        await release
        assert parts.num_wanted == 1
        assert {first, second} <= set(parts.api.names(POD))


@virtual_time
async def test_attached_pod_keeps_counting():
    async with followed() as parts:
        first = await parts.claim()
        parts.api.has_controllers = False
        began = now()
        await parts.pods.release(first)
        assert now() - began == pytest.approx(10, abs=0.1)
        # Fewer might end another one.
        assert parts.num_wanted == 1


@virtual_time
async def test_a_pod_is_released_once():
    async with followed() as parts:
        first = await parts.claim()
        await parts.pods.release(first)
        await settle()
        await parts.pods.release(first)
        assert parts.api.called("patch", POD).count(first) == 2  # The claim, and one release.
        parts.api.remove(POD, first)
        await settle()
        await parts.pods.release(first)
        await parts.pods.release("unknown")


@virtual_time
async def test_a_pod_that_is_gone_is_released():
    async with followed() as parts:
        first = await parts.claim()
        parts.api.has_controllers = False
        release = asyncio.create_task(parts.pods.release(first))
        await settle()
        parts.api.remove(POD, first)
        await release
        assert parts.num_wanted == 0
        # The Deployment is not scaled either.
        parts.api.control()
        second = await parts.claim()
        parts.api.remove(DEPLOYMENT, NAME)
        await parts.pods.release(second)


@virtual_time
async def test_a_sweep_removes_kubernetes_deployments_without_replicas():
    async with followed() as parts:
        first = await parts.claim()
        await parts.pods.sweep()
        assert parts.api.names(DEPLOYMENT) == [NAME]
        await parts.pods.release(first)
        await settle()
        await parts.pods.sweep()
        assert parts.api.names(DEPLOYMENT) == [NAME], "it still drains"
        parts.api.remove(POD, first)
        await settle()
        await parts.pods.sweep()
        for kind in (DEPLOYMENT, SECRET, DISRUPTION_BUDGET, POD):
            assert parts.api.names(kind) == []
        # And it may come back.
        await parts.claim()


@virtual_time
async def test_claim_during_a_sweep_keeps_its_pod():
    async with followed() as parts:
        first = await parts.claim()
        parts.api.remove(POD, first)
        await settle()
        sweep = asyncio.create_task(parts.pods.sweep())
        await asyncio.sleep(0)
        for _ in range(4):
            await asyncio.sleep(0)
        name = await parts.claim()
        await sweep
        await settle()
        assert parts.index_of(name) == "0"
        assert parts.num_wanted == 1
        await parts.pods.sweep()
        assert name in parts.api.names(POD)


@virtual_time
async def test_sweep_corrects_the_scale():
    async with followed() as parts:
        name = await parts.claim()
        spec = parts.api.objects[DEPLOYMENT, NAME]["spec"]
        parts.api.change(DEPLOYMENT, NAME, spec={**spec, "replicas": 4})
        await settle()
        assert len(parts.api.names(POD)) == 4
        await parts.pods.sweep()
        assert parts.api.names(POD) == [name]
        num_patches = len(parts.api.called("patch", DEPLOYMENT))
        await parts.pods.sweep()
        assert len(parts.api.called("patch", DEPLOYMENT)) == num_patches


@virtual_time
async def test_next_management_adopts_pods():
    api = FakeKubernetesApi()
    async with followed(api) as parts:
        first = await parts.claim(0)
    async with followed(api) as parts:
        assert list(parts.pods.pods) == [first]
        assert [name for name, _ in parts.told] == [first]
        second = await parts.claim(1)
        assert parts.num_wanted == 2
        assert len(api.called("apply", DEPLOYMENT)) == 1
        assert {first, second} == set(api.names(POD))


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {manifests.GROUP: NAME, manifests.GATE: "first"},
        {manifests.GROUP: "other", manifests.ATTACHED: "true"},
    ],
)
@virtual_time
async def test_foreign_pod_with_equal_labels_does_not_block_the_watch(labels: dict[str, str]):
    api = FakeKubernetesApi()
    common = {
        "app.kubernetes.io/name": "skysail",
        "skysail.ai/cluster": "c",
        "app.kubernetes.io/component": "model-server",
    }
    foreign = {
        "apiVersion": "v1", "kind": "Pod", "spec": {"containers": []},
        "metadata": {"name": "a-foreign", "labels": {**common, **labels}},
    }  # fmt: skip
    api.add(foreign)
    async with followed(api) as parts:
        name = await parts.claim()
        api.change(POD, "a-foreign", status={"phase": "Running"})
        await settle()
        await parts.pods.release(name)
        await parts.pods.sweep()
        api.remove(POD, "a-foreign")
        await settle()
        assert list(parts.pods.pods) == [name]


@virtual_time
async def test_broken_watch_is_restarted():
    async with followed() as parts:
        gone, stays = await parts.claim(0), await parts.claim(1)
        parts.api.errors["watch", "Pod"] = [ContainerManagerUnavailable("no")] * 3
        parts.api.break_watches(ContainerManagerUnavailable("the connection broke"))
        await asyncio.sleep(0)
        parts.api.remove(POD, gone)
        await until(lambda: parts.api.num_watches == 2)
        await settle()
        assert gone not in parts.pods.pods
        assert stays in parts.pods.pods
        assert (gone, None) in parts.told
        assert parts.index_of(await parts.claim(2)) == "2"


@virtual_time
async def test_claim_waits_during_a_broken_watch():
    async with followed() as parts:
        parts.api.errors["watch", "Pod"] = [ContainerManagerUnavailable("no")] * 3
        parts.api.break_watches(ContainerManagerUnavailable("the connection broke"))
        await settle()
        assert parts.index_of(await parts.claim()) == "0"


@virtual_time
async def test_reason_for_a_missing_pod_is_reported():
    async with followed() as parts:
        parts.api.has_controllers = False
        message = 'pods "m" is forbidden: exceeded quota: small'
        claim = asyncio.create_task(parts.claim())
        await settle()
        others = {"type": "Available", "status": "False", "message": "none"}
        failure = {"type": "ReplicaFailure", "status": "True", "message": message}
        parts.api.change(DEPLOYMENT, NAME, status={"conditions": [others, failure]})
        with pytest.raises(SkysailError) as caught:
            await claim
        assert caught.value.message == f"cannot start m:1/0: no pod was created: {message}"


@virtual_time
async def test_wait_is_reported_if_the_reason_is_unknown():
    async with followed() as parts:
        parts.api.has_controllers = False
        with pytest.raises(SkysailError) as caught:
            await parts.claim()
        assert caught.value.message == (
            "cannot start m:1/0: no pod was created: Kubernetes created none within 30 s"
        )
        # The failed claim no longer counts, and the next one succeeds.
        parts.api.control()
        await settle()
        await parts.claim()
        assert parts.num_wanted == 1


@virtual_time
async def test_claim_fails_if_objects_cannot_be_created():
    async with followed() as parts:
        parts.api.errors["apply", "Secret"] = [ContainerManagerUnavailable("later")]
        with pytest.raises(ContainerManagerUnavailable):
            await parts.claim()
        await parts.claim()
        assert parts.num_wanted == 1
        assert parts.api.names(SECRET) == [NAME]


@virtual_time
async def test_sweep_removes_the_objects_of_a_cancelled_claim():
    async with followed() as parts:
        parts.api.has_controllers = False
        claim = asyncio.create_task(parts.claim())
        await settle()
        claim.cancel()
        await asyncio.wait({claim})
        parts.api.control()
        await settle()
        await parts.pods.sweep()
        assert parts.api.names(DEPLOYMENT) == parts.api.names(POD) == []


@virtual_time
async def test_stale_list_changes_nothing():
    async with followed() as parts:
        name, gone = await parts.claim(), await parts.claim(1)
        listed = parts.api.list

        async def late(kind, labels):
            found = await listed(kind, labels)
            # Meanwhile one becomes ready, one is removed and one is made.
            parts.api.change(POD, name, status={"phase": "Running"})
            parts.api.remove(POD, gone)
            made.append(await parts.claim(2))
            await settle()
            return found

        made: list[str] = []
        parts.api.list = late  # type: ignore[method-assign]
        parts.told.clear()
        await parts.pods.refresh()
        assert parts.pods.pods[name]["status"] == {"phase": "Running"}
        assert gone not in parts.pods.pods
        assert made[0] in parts.pods.pods
        assert parts.told.count((gone, None)) == 1


@virtual_time
async def test_stale_watch_event_after_a_list_changes_nothing():
    async with followed() as parts:
        name = await parts.claim()
        before = parts.api.objects[POD, name]
        parts.api.change(POD, name, status={"phase": "Running"})
        await settle()
        parts.api.send(WatchEvent(None, before))
        await settle()
        assert parts.pods.pods[name]["status"] == {"phase": "Running"}
