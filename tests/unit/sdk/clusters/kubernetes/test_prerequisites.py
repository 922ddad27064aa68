import base64

import pytest

from skysail.clusters.kubernetes.prerequisites import check_secrets
from skysail_common.errors import FailedPrecondition
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.kubernetes.kinds import Object
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import thing
from skysail_testing.virtual_time import virtual_time


def workload(*, volumes: tuple[Object, ...] = (), **container: object) -> Object:
    pod = {"containers": [{"name": "c", **container}], "volumes": list(volumes)}
    return thing("Deployment", "skysail-frontend-blue", spec={"template": {"spec": pod}})


def variable(name: str, key: str, **more: object) -> Object:
    return {"name": "V", "valueFrom": {"secretKeyRef": {"name": name, "key": key, **more}}}


TLS = {"name": "tls", "secret": {"secretName": "tls-blue"}}
URL = variable("secrets-blue", "SKYSAIL_REDIS_URL")


async def problem_of(api: FakeKubernetesApi, *objects: Object) -> str:
    with pytest.raises(FailedPrecondition) as caught:
        await check_secrets(api, objects)
    return caught.value.message


@virtual_time
async def test_a_missing_secret_is_named_with_its_workload(api: FakeKubernetesApi):
    needs = workload(volumes=(TLS,), env=[URL])
    # The overlay has this Secret, without data.
    empty = thing("Secret", "secrets-blue")
    assert await problem_of(api, needs, empty) == (
        "cannot start the cluster in namespace 'skysail': Secret 'secrets-blue' has no "
        "'SKYSAIL_REDIS_URL', which Deployment skysail-frontend-blue needs; Secret 'tls-blue' is "
        "missing, which Deployment skysail-frontend-blue needs; make it with 'kubectl -n skysail "
        "create secret'"
    )
    api.add(thing("Secret", "tls-blue"))
    url = base64.b64encode(b"redis://").decode()
    api.add({**empty, "data": {"SKYSAIL_REDIS_URL": url}})
    await check_secrets(api, [needs, empty])


@pytest.mark.parametrize(
    "needs",
    [
        workload(env=[variable("store-blue", "password")]),
        workload(env=[variable("store-blue", "more")]),
        workload(env=[variable("other", "key", optional=True), {"name": "V", "value": "x"}]),
        workload(envFrom=[{"secretRef": {"name": "other", "optional": True}}]),
        workload(volumes=({"name": "v", "secret": {"secretName": "o", "optional": True}},)),
        workload(volumes=({"name": "v", "emptyDir": {}},)),
    ],
)
@virtual_time
async def test_applied_and_optional_secrets_are_not_missing(api: FakeKubernetesApi, needs: Object):
    await check_secrets(api, [needs, thing("Secret", "store-blue", data={"more": "bQ=="})])


@virtual_time
async def test_a_secret_of_another_object_is_not_missing(api: FakeKubernetesApi):
    certificate = thing("Certificate", "tls", spec={"secretName": "tls-blue", "dnsNames": ["a"]})
    needs = workload(volumes=(TLS,))
    await check_secrets(api, [needs, certificate])
    assert "'tls-blue' is missing" in await problem_of(api, needs)


@virtual_time
async def test_a_role_without_secrets_skips_the_check(api: FakeKubernetesApi):
    api.errors["get", "Secret"] = [NotAllowed("'jo' may not get secrets")]
    await check_secrets(api, [workload(volumes=(TLS,))])
