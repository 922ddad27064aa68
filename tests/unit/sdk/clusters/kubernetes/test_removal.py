import asyncio

import pytest

from skysail.clusters.kubernetes.removal import Removed
from skysail.clusters.kubernetes.services import KubernetesServices
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.anchor import anchor_manifest
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.kubernetes.kinds import (
    CONFIG_MAP,
    NAMESPACE,
    PERSISTENT_VOLUME,
    PERSISTENT_VOLUME_CLAIM,
    SECRET,
    SERVICE,
    Object,
)
from skysail_common.kubernetes.labels import labels
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import OPTIONS, service, service_pod, started, thing
from skysail_testing.virtual_time import settle, virtual_time

DATA = ["Secret skysail-store-blue", "PersistentVolumeClaim skysail-data-blue"]


def data() -> list[Object]:
    """Return the objects with data of an overlay."""
    return [
        thing("Secret", "skysail-store-blue", "store"),
        thing("PersistentVolumeClaim", "skysail-data-blue", "management", spec={}),
        *(
            volume(name, namespace)
            for name, namespace in (("ours", "skysail"), ("theirs", "other"))
        ),
    ]


def volume(name: str, namespace: str) -> Object:
    path = f"/var/lib/skysail/{namespace}/blue/data"
    made = thing("PersistentVolume", name, spec={"local": {"path": path}})
    made["metadata"]["labels"]["skysail.ai/volumes"] = f"{namespace}.blue"
    return made


async def services_of(api: FakeKubernetesApi) -> KubernetesServices:
    """Start a cluster with data, and return a handle to remove it."""
    api.add(service_pod("management", is_leader=True))
    await started(*data(), service("frontend", 8000))
    # Kubernetes adds this label to every namespace; the fake does not.
    api.objects[NAMESPACE, "skysail"]["metadata"]["labels"] = {
        "kubernetes.io/metadata.name": "skysail"
    }
    services = KubernetesServices(OPTIONS)
    await services.open()
    return services


@virtual_time
async def test_down_keeps_data_and_their_namespace(api: FakeKubernetesApi):
    services = await services_of(api)
    api.ends_pods = False
    remove = asyncio.create_task(services.remove(deletes_data=False))
    await settle()
    assert not remove.done(), "a pod still ends"
    api.end("management-0")
    assert await remove == Removed(True, DATA)
    assert {name for _, name in api.objects} == {
        "skysail", "skysail-store-blue", "skysail-data-blue", "ours", "theirs",
    }  # fmt: skip
    # A later removal deletes the kept data.
    assert await services.remove(deletes_data=False) == Removed(False, DATA)
    assert (await services.remove(deletes_data=True)).was_there


@virtual_time
async def test_down_deletes_data_on_demand_and_the_namespace_that_up_made(api: FakeKubernetesApi):
    services = await services_of(api)
    removed = await services.remove(deletes_data=True)
    assert removed == Removed(True, [], ["/var/lib/skysail/skysail/blue/data"])
    assert [name for _, name in api.objects] == ["theirs"]
    assert not (await services.remove(deletes_data=True)).was_there


@virtual_time
async def test_the_next_up_uses_the_kept_data(api: FakeKubernetesApi):
    services = await services_of(api)
    password = api.objects[SECRET, "skysail-store-blue"]["stringData"]
    # Kubernetes stores content in this form.
    api.change(SECRET, "skysail-store-blue", data={"password": "cA=="}, stringData={})
    claim = api.objects[PERSISTENT_VOLUME_CLAIM, "skysail-data-blue"]["metadata"]["uid"]
    await services.remove(deletes_data=False)
    assert password["password"]
    await services_of(api)
    assert api.objects[SECRET, "skysail-store-blue"]["data"] == {"password": "cA=="}
    assert api.objects[PERSISTENT_VOLUME_CLAIM, "skysail-data-blue"]["metadata"]["uid"] == claim


@virtual_time
async def test_a_recreated_cluster_is_not_removed(api: FakeKubernetesApi):
    services = await services_of(api)
    note = await services.claim(lambda line: None)
    api.remove(CONFIG_MAP, "skysail-blue")
    api.add(anchor_manifest("blue"))
    with pytest.raises(FailedPrecondition) as caught:
        await services.remove(deletes_data=True, anchor_uid=note.anchor_uid)
    assert caught.value.message == (
        "cannot remove cluster 'blue': the one in namespace 'skysail' of context 'admin@test' "
        "(https://192.0.2.1:6443) is not the one that was started from this data directory; to "
        "remove it anyway, name it with --container-manager kubernetes and --namespace"
    )
    assert (CONFIG_MAP, "skysail-blue") in api.objects
    assert (PERSISTENT_VOLUME_CLAIM, "skysail-data-blue") in api.objects


@virtual_time
async def test_down_leaves_other_clusters_in_the_namespace(api: FakeKubernetesApi):
    services = await services_of(api)
    other = {"name": "skysail-green", "labels": labels("green")}
    api.add({"apiVersion": "v1", "kind": "ConfigMap", "metadata": other})
    await services.remove(deletes_data=True)
    assert {name for _, name in api.objects} == {"skysail", "skysail-green", "theirs"}


@pytest.mark.parametrize("kind", ["Pod", "Secret", "PersistentVolumeClaim", "Service"])
@virtual_time
async def test_down_leaves_a_namespace_that_has_other_inhabitants(
    api: FakeKubernetesApi, kind: str
):
    services = await services_of(api)
    api.add({"apiVersion": "v1", "kind": kind, "metadata": {"name": "stranger"}, "spec": {}})
    await services.remove(deletes_data=True)
    assert {name for _, name in api.objects} == {"skysail", "stranger", "theirs"}


@virtual_time
async def test_a_role_without_volumes_removes_the_rest(api: FakeKubernetesApi):
    services = await services_of(api)
    api.errors["list", PERSISTENT_VOLUME.kind] = [NotAllowed("'jo' may not list persistentvolumes")]
    assert (await services.remove(deletes_data=True)).was_there
    assert {name for _, name in api.objects} == {"ours", "theirs"}


@virtual_time
async def test_down_reports_objects_that_are_left(api: FakeKubernetesApi):
    api.add(thing("Pod", "stuck", "model-server", spec={}))
    api.ends_pods = False
    with pytest.raises(FailedPrecondition, match="namespace skysail: objects are left after 120 s"):
        await KubernetesServices(OPTIONS).remove(deletes_data=False)


def test_data_have_no_owner(api: FakeKubernetesApi):
    asyncio.run(services_of(api))
    assert "ownerReferences" in api.objects[SERVICE, "skysail-frontend-blue"]["metadata"]
    for kind in (SECRET, PERSISTENT_VOLUME_CLAIM, PERSISTENT_VOLUME):
        for name in api.names(kind):
            assert "ownerReferences" not in api.objects[kind, name]["metadata"]
