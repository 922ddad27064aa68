"""The tags of images, which are hashes of their inputs, and the images that versions need."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from skysail_common.docker.labels import LABEL
from skysail_management.containers.base import VersionSpec
from skysail_management.containers.replica_launch import can_run
from skysail_management.containers.requirements import normal_form

PYTHON = f"{LABEL}python"
"""Label with the Python of an image."""

FILES = "files"
"""Label of the image of a version with the tag of the image of its large files, or `MOUNTED`."""
MOUNTED = "mounted"
"""Value of that label if replicas mount these files."""


@dataclass(frozen=True)
class BaseImage:
    """An image to build on."""

    image_id: str
    config: Mapping[str, Any]

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels of the image; one names its Python."""
        return self.config["Labels"] or {}


@dataclass(frozen=True)
class ImageTags:
    """The tags of the images of versions."""

    mounts_files: bool
    """True if replicas mount large files, so that images lack them."""

    def version(self, base: BaseImage, version: VersionSpec) -> str:
        """Return the tag of the image of a version."""
        how = MOUNTED if self.mounts_files else ""
        return _tag(
            "version", base, normal_form(version.requirements), version.artifact_sha256, how
        )

    def needed(
        self,
        found: Mapping[str, Mapping[str, str]],
        base: BaseImage,
        versions: Collection[VersionSpec],
    ) -> set[str]:
        """Return the tags of present images that versions need.

        Args:
            found: Labels of the present images by tag.
            base: The base of new images.
            versions: The versions.
        """
        tags = {self.version(base, version) for version in versions}
        tags |= {packages_tag(base, version) for version in versions if version.requirements}
        tags |= {tag for tag, labels in found.items() if _is_kept(labels, base, versions)}
        shared = {found[tag].get(f"{LABEL}{FILES}", "") for tag in tags & found.keys()}
        # A build that is under way has no image with that label yet.
        unbuilt = {self.version(base, version) for version in versions} - found.keys()
        waiting = {tag for tag in found if unbuilt and tag.startswith("files-")}
        return found.keys() & (tags | shared | waiting)


def has_python_of(labels: Mapping[str, str], version: VersionSpec) -> bool:
    """Return whether an image with these labels, or with none, can run a version."""
    return can_run(labels.get(PYTHON, version.python_version), version)


def packages_tag(base: BaseImage, version: VersionSpec) -> str:
    """Return the tag of the image with the packages of a version."""
    return _tag("packages", base, normal_form(version.requirements))


def files_tag(base: BaseImage, names: str) -> str:
    """Return the tag of the image with large files of these names."""
    return _tag("files", base, names)


def _is_kept(labels: Mapping[str, str], base: BaseImage, versions: Collection[VersionSpec]) -> bool:
    """Return whether a version keeps an image because the present base has another Python."""
    artifact = labels.get(f"{LABEL}artifact")
    return any(
        artifact == version.artifact_sha256
        and not has_python_of(base.labels, version)
        and has_python_of(labels, version)
        for version in versions
    )


def _tag(kind: str, base: BaseImage, *parts: str) -> str:
    digest = hashlib.sha256("\0".join([base.image_id, *parts]).encode()).hexdigest()
    return f"{kind}-{digest[:16]}"
