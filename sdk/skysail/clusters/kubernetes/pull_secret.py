"""The pull secret of a cluster on Kubernetes, for images from a private registry."""

import base64
import json

from skysail.clusters.kubernetes.namespace import ensure_namespace
from skysail.clusters.kubernetes.options import KubernetesOptions
from skysail_common.kubernetes.api import KubernetesApi
from skysail_common.kubernetes.errors import NotInCluster
from skysail_common.kubernetes.kinds import SECRET, SERVICE_ACCOUNT, Object
from skysail_common.kubernetes.labels import labels

_LOGINS = ".dockerconfigjson"


def secret_name(options: KubernetesOptions) -> str:
    """Return the name of the pull secret of a cluster."""
    return f"skysail-registry{options.suffix}"


async def log_in(options: KubernetesOptions, registry: str, user: str, password: str) -> list[str]:
    """Add a pull secret to the service accounts of a cluster, and return their names.

    Logins at other registries stay. Service accounts that `skysail up` creates later use the secret too.
    Pods that wait for an image retry with the new content.

    Args:
        options: The cluster.
        registry: Endpoint of the registry, such as `registry.example:5000`.
        user: User name.
        password: Password of the user.

    Raises:
        NotAllowed: the user of the kubeconfig lacks a role.
        ContainerManagerUnavailable: Kubernetes does not answer.
    """
    api = options.api()
    try:
        await api.open()
        await ensure_namespace(api)
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        login = {"username": user, "password": password, "auth": token}
        logins = {**await _logins(api, options), registry: login}
        await api.apply(_secret(options, logins))
        patched = []
        for account in await api.list(SERVICE_ACCOUNT, labels(options.cluster)):
            await api.patch(
                SERVICE_ACCOUNT, account["metadata"]["name"], _reference(account, options)
            )
            patched.append(str(account["metadata"]["name"]))
        return patched
    finally:
        await api.close()


async def _logins(api: KubernetesApi, options: KubernetesOptions) -> Object:
    """Return the present logins, by registry."""
    try:
        found = await api.get(SECRET, secret_name(options))
    except NotInCluster:
        return {}
    content = base64.b64decode(found["data"][_LOGINS])
    return dict(json.loads(content)["auths"])


def _secret(options: KubernetesOptions, logins: Object) -> Object:
    content = base64.b64encode(json.dumps({"auths": logins}).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": secret_name(options), "labels": labels(options.cluster)},
        "data": {_LOGINS: content},
    }


def _reference(account: Object, options: KubernetesOptions) -> Object:
    name = secret_name(options)
    others = [each for each in account.get("imagePullSecrets", ()) if each["name"] != name]
    return {"imagePullSecrets": [*others, {"name": name}]}


async def with_pull_secret(
    api: KubernetesApi, options: KubernetesOptions, account: Object
) -> Object:
    """Return the manifest of a service account with the pull secret, if there is one."""
    try:
        await api.get(SECRET, secret_name(options))
    except NotInCluster:
        return account
    return {**account, **_reference(account, options)}
