import asyncio

import pytest

from skysail.clusters.kubernetes.services import KubernetesServices
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.errors import ClusterRefused, NotAllowed
from skysail_common.kubernetes.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    NAMESPACE,
    SERVICE_ACCOUNT,
    Kind,
)
from skysail_common.process.child_process import StartFailed
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import OPTIONS, service, service_pod, started, thing
from skysail_testing.virtual_time import settle, virtual_time


@virtual_time
async def test_a_store_has_a_password_that_stays(api: FakeKubernetesApi):
    services = KubernetesServices(OPTIONS)
    secret = thing("Secret", "skysail-store-blue", "store", data={"user": "dQ=="})
    first = await services._with_content(secret)
    assert len(first["stringData"]["password"]) == 48
    assert first["data"] == {"user": "dQ=="}
    again = await services._with_content(secret)
    assert again["stringData"] != first["stringData"]
    # Kubernetes stores content in this form.
    api.add({**secret, "data": {"user": "dQ==", "password": "cA==", "more": "bQ=="}})
    kept = await services._with_content(secret)
    assert "stringData" not in kept
    assert kept["data"] == {"user": "dQ==", "password": "cA==", "more": "bQ=="}


@virtual_time
async def test_another_secret_has_what_it_holds_and_what_is_new(api: FakeKubernetesApi):
    secret = thing("Secret", "skysail-tls-blue", "frontend", data={"key": "bmV3"})
    assert await KubernetesServices(OPTIONS)._with_content(secret) == secret
    api.add({**secret, "data": {"key": "b2xk", "certificate": "Y2VydA=="}})
    made = await KubernetesServices(OPTIONS)._with_content(secret)
    assert made["data"] == {"key": "bmV3", "certificate": "Y2VydA=="}


@virtual_time
async def test_up_applies_everything_and_waits_until_one_leads(api: FakeKubernetesApi):
    lines: list[str] = []
    objects = [
        thing("ServiceAccount", "skysail-management-blue", "management"),
        thing("Secret", "skysail-store-blue", "store"),
        thing("PersistentVolume", "volume", "store", spec={}),
    ]
    api.add(service_pod("management", is_ready=False))
    start = asyncio.create_task(started(*objects, progress=lines.append))
    await settle()
    assert lines == ["namespace skysail is created", "3 objects are applied in namespace skysail"]
    api.add(service_pod("management"))
    await settle()
    assert not start.done()
    api.add(service_pod("management", is_leader=True))
    await start
    assert lines[2:] == ["management-0: ready"]
    anchor = api.objects[CONFIG_MAP, "skysail-blue"]["metadata"]["uid"]
    account = api.objects[SERVICE_ACCOUNT, "skysail-management-blue"]
    (owner,) = account["metadata"]["ownerReferences"]
    assert owner["uid"] == anchor
    volume = api.objects[Kind("v1", "PersistentVolume"), "volume"]
    assert "ownerReferences" not in volume["metadata"]


@virtual_time
async def test_up_waits_for_all_frontends(api: FakeKubernetesApi):
    deployment = thing("Deployment", "skysail-frontend-blue", "frontend", spec={"replicas": 1})
    deployment["spec"]["selector"] = {"matchLabels": {"of": "nobody"}}
    deployment["metadata"]["generation"] = 1
    api.has_controllers = False
    api.add({**deployment, "apiVersion": "apps/v1"})
    api.add(service_pod("management", is_leader=True))
    start = asyncio.create_task(started())
    await settle()
    assert not start.done()
    api.add(service_pod("frontend"))
    for status in ({"observedGeneration": 1}, {"updatedReplicas": 1}, {"readyReplicas": 1}):
        await settle()
        assert not start.done()
        found = api.objects[DEPLOYMENT, "skysail-frontend-blue"]
        api.change(
            DEPLOYMENT, "skysail-frontend-blue", status={**found.get("status", {}), **status}
        )
    await start


@virtual_time
async def test_ended_and_ending_pods_are_ignored(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    evicted = service_pod("frontend", is_ready=False)
    evicted["status"]["phase"] = "Failed"
    api.add(evicted)
    old = service_pod("store", is_ready=False)
    old["metadata"]["deletionTimestamp"] = "2026-11-20T10:05:00Z"
    api.add(old)
    await started()


@virtual_time
async def test_a_job_that_cannot_be_changed_is_replaced(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    job = {**thing("Job", "skysail-directories-blue", "directories"), "apiVersion": "batch/v1"}
    api.add({**job, "spec": {"image": "wrong"}})
    api.errors["apply", "Job"] = [ClusterRefused("spec.template: field is immutable")]
    await started({**job, "spec": {"image": "right"}})
    assert api.objects[Kind("batch/v1", "Job"), "skysail-directories-blue"]["spec"] == {
        "image": "right"
    }


@virtual_time
async def test_a_failed_start_shows_the_log(api: FakeKubernetesApi):
    api.add(service_pod("management", is_leader=True))
    api.add(service_pod("frontend", is_ready=False))
    api.log_errors = [ClusterRefused("previous terminated container not found")]
    api.log_lines["frontend-0", "frontend", False] = [b"cannot listen"]
    with pytest.raises(StartFailed) as caught:
        await started()
    assert caught.value.message == (
        "the cluster is not ready after 180 s\n  frontend-0: not ready\n      cannot listen"
    )


@virtual_time
async def test_a_refused_object_is_named(api: FakeKubernetesApi):
    api.errors["apply", "Service"] = [ClusterRefused("spec.ports: Required value")]
    with pytest.raises(FailedPrecondition) as caught:
        await started(service("frontend"))
    assert caught.value.message == (
        "cannot apply Service skysail-frontend-blue: spec.ports: Required value"
    )


@virtual_time
async def test_a_role_without_namespaces_starts_a_cluster(api: FakeKubernetesApi):
    api.errors["get", "Namespace"] = [NotAllowed("'jo' may not get namespaces")]
    api.add(service_pod("management", is_leader=True))
    await started()
    assert api.names(NAMESPACE) == []
