"""Labels of all objects of Skysail in a Kubernetes cluster."""

LABEL = "skysail.ai/"
"""Prefix of Skysail's labels and annotations."""

CLUSTER = f"{LABEL}cluster"
COMPONENT = "app.kubernetes.io/component"
LEADER = f"{LABEL}leader"
"""Label of the management pod that leads, if several run."""

MODEL_SERVER, INSTALLER, PROBE = "model-server", "installer", "probe"
"""Components that management creates; k8s/ has the components that `skysail up` creates."""


def labels(cluster: str, component: str = "") -> dict[str, str]:
    """Return the labels of a component, or the labels that all components of a cluster share."""
    common = {"app.kubernetes.io/name": "skysail", CLUSTER: cluster}
    return {**common, COMPONENT: component} if component else common
