"""The labels of all objects of Skysail in a Kubernetes cluster."""

LABEL = "skysail.ai/"
"""What the labels and annotations of ours begin with."""

CLUSTER = f"{LABEL}cluster"
COMPONENT = "app.kubernetes.io/component"
LEADER = f"{LABEL}leader"
"""Label of the pod of management that works, where there are several."""

MODEL_SERVER, INSTALLER, PROBE = "model-server", "installer", "probe"
"""Components that management makes; those that `skysail up` makes are in k8s/."""


def labels(cluster: str, component: str = "") -> dict[str, str]:
    """Return the labels of a component of a cluster, or those that all of it have."""
    common = {"app.kubernetes.io/name": "skysail", CLUSTER: cluster}
    return {**common, COMPONENT: component} if component else common
