"""The kustomize manifests of this version: their location, and copies of them."""

from pathlib import Path
from typing import NamedTuple

import skysail
from skysail_common.errors import FailedPrecondition


def manifests_directory() -> Path:
    """Return the directory with the kustomize base and overlays of this version."""
    package = Path(skysail.__file__).parent
    installed = package / "k8s"
    # A clone has the manifests at its root.
    return installed if installed.is_dir() else package.parents[1] / "k8s"


class Copied(NamedTuple):
    """Numbers of files after a copy of the manifests."""

    written: int
    unchanged: int


def copy_manifests(target: Path, *, force: bool = False) -> Copied:
    """Copy the manifests of this version into a directory, which is made if it does not exist.

    Args:
        target: The directory; its new content is `base`, `components`, `examples`, `overlays`.
        force: Write into a directory that is not empty. Files of the same name are replaced, and
            other files stay, such as an overlay of the user's.

    Returns:
        How many files were written, and how many were the same before.

    Raises:
        FailedPrecondition: The directory is not empty, or cannot be written.
    """
    source = manifests_directory()
    written = unchanged = 0
    try:
        if not force and target.is_dir() and any(target.iterdir()):
            raise FailedPrecondition(
                f"cannot copy the manifests to {target}: the directory is not empty; name another, "
                "or pass --force to replace files of the same name"
            )
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            place = target / file.relative_to(source)
            content = file.read_bytes()
            if place.is_file() and place.read_bytes() == content:
                unchanged += 1
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            written += 1
    except OSError as error:
        raise FailedPrecondition(
            f"cannot copy the manifests to {target}: {error.strerror}: {error.filename}"
        ) from None
    return Copied(written, unchanged)
