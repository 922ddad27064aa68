"""Where the manifests of Skysail are on this machine."""

from pathlib import Path

import skysail


def manifests_directory() -> Path:
    """Return the directory with the kustomize base and overlays of this version."""
    package = Path(skysail.__file__).parent
    installed = package / "k8s"
    # In a clone they are where people look for them.
    return installed if installed.is_dir() else package.parents[1] / "k8s"
