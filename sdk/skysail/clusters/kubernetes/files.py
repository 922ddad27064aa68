"""Where the manifests of Skysail are on this machine."""

from pathlib import Path

import skysail


def manifests_directory() -> Path:
    """Return the directory with the kustomize base and overlays of this version."""
    package = Path(skysail.__file__).parent
    installed = package / "k8s"
    # A clone has the manifests at its root.
    return installed if installed.is_dir() else package.parents[1] / "k8s"
