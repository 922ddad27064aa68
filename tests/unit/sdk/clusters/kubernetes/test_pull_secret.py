import base64
import json

from skysail.clusters.kubernetes.pull_secret import log_in, secret_name, with_pull_secret
from skysail_common.kubernetes.errors import NotAllowed
from skysail_common.kubernetes.kinds import (
    NAMESPACE,
    SECRET,
    SERVICE_ACCOUNT,
)
from skysail_common.kubernetes.labels import labels
from skysail_testing.fake_kubernetes import FakeKubernetesApi
from skysail_testing.kubernetes_services import OPTIONS, thing
from skysail_testing.virtual_time import virtual_time


@virtual_time
async def test_a_pull_secret_has_the_format_of_docker_logins(api: FakeKubernetesApi):
    account = thing("ServiceAccount", "skysail-model-server-blue", "model-server")
    api.add({**account, "imagePullSecrets": [{"name": "other"}]})
    foreign = thing("ServiceAccount", "default")
    foreign["metadata"]["labels"] = {}
    api.add(foreign)
    for password in ("first", "pa:ss"):
        patched = await log_in(OPTIONS, "registry.example:5000", "jo", password)
        assert patched == ["skysail-model-server-blue"]
    secret = api.objects[SECRET, secret_name(OPTIONS)]
    assert secret["metadata"]["name"] == "skysail-registry-blue"
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    assert secret["metadata"]["labels"] == labels("blue")
    content = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    assert content == {
        "auths": {
            "registry.example:5000": {
                "username": "jo",
                "password": "pa:ss",
                "auth": base64.b64encode(b"jo:pa:ss").decode(),
            }
        }
    }
    # A login at another registry is added.
    await log_in(OPTIONS, "other.example", "jo", "p")
    secret = api.objects[SECRET, secret_name(OPTIONS)]
    content = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    assert set(content["auths"]) == {"registry.example:5000", "other.example"}
    found = api.objects[SERVICE_ACCOUNT, "skysail-model-server-blue"]
    assert found["imagePullSecrets"] == [{"name": "other"}, {"name": "skysail-registry-blue"}]
    assert "imagePullSecrets" not in api.objects[SERVICE_ACCOUNT, "default"]
    assert api.names(NAMESPACE) == ["skysail"]
    assert not api.is_open


@virtual_time
async def test_a_role_without_namespaces_logs_in_to_a_registry(api: FakeKubernetesApi):
    api.errors["get", "Namespace"] = [NotAllowed("'jo' may not get namespaces")]
    assert await log_in(OPTIONS, "registry.example", "jo", "p") == []
    assert api.names(SECRET) == ["skysail-registry-blue"]


@virtual_time
async def test_service_accounts_of_a_later_up_have_the_pull_secret(api: FakeKubernetesApi):
    account = thing("ServiceAccount", "a", "model-server", imagePullSecrets=[{"name": "own"}])
    assert await with_pull_secret(api, OPTIONS, account) == account
    await log_in(OPTIONS, "registry.example", "jo", "p")
    wanted = [{"name": "own"}, {"name": "skysail-registry-blue"}]
    made = await with_pull_secret(api, OPTIONS, account)
    assert made == {**account, "imagePullSecrets": wanted}
    assert await with_pull_secret(api, OPTIONS, made) == made
