import re

import pytest

from skysail_common.kubernetes.anchor import anchor_manifest, anchor_name, owned_by
from skysail_common.kubernetes.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    LEASE,
    NAMESPACE,
    PERSISTENT_VOLUME,
    POD,
    Kind,
    kind_of,
    selector,
)
from skysail_common.kubernetes.labels import labels


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (POD, "/api/v1/namespaces/n/pods"),
        (CONFIG_MAP, "/api/v1/namespaces/n/configmaps"),
        (DEPLOYMENT, "/apis/apps/v1/namespaces/n/deployments"),
        (DISRUPTION_BUDGET, "/apis/policy/v1/namespaces/n/poddisruptionbudgets"),
        (LEASE, "/apis/coordination.k8s.io/v1/namespaces/n/leases"),
        (
            Kind("networking.k8s.io/v1", "NetworkPolicy"),
            "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies",
        ),
        (
            Kind("networking.k8s.io/v1", "Ingress"),
            "/apis/networking.k8s.io/v1/namespaces/n/ingresses",
        ),
        (
            Kind("gateway.networking.k8s.io/v1", "Gateway"),
            "/apis/gateway.networking.k8s.io/v1/namespaces/n/gateways",
        ),
        (NAMESPACE, "/api/v1/namespaces"),
        (PERSISTENT_VOLUME, "/api/v1/persistentvolumes"),
        (Kind("v1", "Node"), "/api/v1/nodes"),
        (
            Kind("rbac.authorization.k8s.io/v1", "ClusterRole"),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        ),
    ],
)
def test_each_kind_has_its_path(kind: Kind, path: str):
    assert kind.path("n") == path
    assert kind.path("n", "o") == f"{path}/o"
    assert kind.path("n", "o", "scale") == f"{path}/o/scale"


def test_names_are_quoted_in_paths():
    assert POD.path("n", "../secrets/s") == "/api/v1/namespaces/n/pods/..%2Fsecrets%2Fs"


def test_the_kind_of_a_manifest():
    assert kind_of({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {}}) == DEPLOYMENT


def test_objects_are_selected_by_labels():
    assert selector({"a": "b", "c": ""}) == "a=b,c"
    assert selector({}) == ""
    assert labels("c") == {"app.kubernetes.io/name": "skysail", "skysail.ai/cluster": "c"}
    assert labels("c", "store")["app.kubernetes.io/component"] == "store"


def test_owned_objects_refer_to_the_anchor():
    anchor = anchor_manifest("c")
    assert anchor["metadata"] == {"name": "skysail-c", "labels": labels("c")}
    anchor["metadata"]["uid"] = "u"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}
    assert owned_by(anchor, pod) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "name": "skysail-c",
                    "uid": "u",
                    "blockOwnerDeletion": True,
                }
            ],
        },
    }
    assert pod["metadata"] == {"name": "p"}


def test_an_anchor_has_the_plain_name_of_its_cluster():
    assert anchor_name("default") == "skysail-default"
    assert anchor_name("a-b") == "skysail-a-b"


def test_anchors_of_clusters_never_collide():
    clusters = [
        "a-b", "A-b", "A_b", "a_b", "a.b", "a._b", "My_Cluster",
        "settings", "settings-blue", "default-packages-0123",
    ]  # fmt: skip
    names = {anchor_name(cluster) for cluster in clusters}
    assert len(names) == len(clusters)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) for name in names)
    taken = {"skysail-settings", "skysail-settings-blue", f"{anchor_name('default')}-packages-0123"}
    assert not names & taken
