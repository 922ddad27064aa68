"""The files of an artifact on their way into containers.

Small files are in the image of their version. Large ones are mounted from the store of management,
or are in an image that versions share, so that no engine has them twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skysail_common.archives import is_archive
from skysail_common.artifact_files import unpack_archive
from skysail_common.artifacts import MANIFEST_FILE, Blob, parse_manifest
from skysail_common.errors import InvalidInput
from skysail_management.containers.base import PrepareFailed, VersionSpec
from skysail_management.containers.docker.options import ARTIFACT

_LARGE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class VersionFiles:
    """The files of one artifact by their path in a container."""

    small: Mapping[str, Path]
    large: Mapping[str, Path]
    large_names: str
    """Text that only the same large files at the same paths have; empty without any."""


def version_files(artifacts: Path, version: VersionSpec, scratch: Path) -> VersionFiles:
    """Return the files of a version.

    Args:
        artifacts: Directory of the store of management.
        version: The version.
        scratch: An empty directory, into which an archive of format 1 is unpacked.

    Raises:
        PrepareFailed: the store lacks the artifact, or it is corrupt.
    """
    file = artifacts / version.artifact_sha256
    try:
        if is_archive(file):
            unpacked = list(unpack_archive(file, scratch).directory.rglob("*"))
            files = {
                each.relative_to(scratch).as_posix(): each for each in unpacked if each.is_file()
            }
            return VersionFiles(_in_container(files), {}, "")
        blobs = parse_manifest(file.read_bytes()).blobs
    except FileNotFoundError as error:
        raise PrepareFailed(
            f"cannot build the image: {artifacts} lacks the artifact of {version.model_version}"
        ) from error
    except InvalidInput as error:
        raise PrepareFailed(f"cannot build the image: {error.message}") from error
    large = [blob for blob in blobs if blob.size_bytes > _LARGE_BYTES]
    small = [blob for blob in blobs if blob.size_bytes <= _LARGE_BYTES]
    return VersionFiles(
        _in_container({MANIFEST_FILE: file, **_stored(artifacts, small)}),
        _in_container(_stored(artifacts, large)),
        "\n".join(f"{blob.path} {blob.sha256}" for blob in large),
    )


def mounts_of(files: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return files of this machine as mounts of a container."""
    return [
        {"Type": "bind", "Source": str(file), "Target": path, "ReadOnly": True}
        for path, file in files.items()
    ]


def _stored(artifacts: Path, blobs: Sequence[Blob]) -> dict[str, Path]:
    return {blob.path: artifacts.resolve() / "blobs" / blob.sha256 for blob in blobs}


def _in_container(files: Mapping[str, Path]) -> dict[str, Path]:
    return {f"{ARTIFACT}/{path}": files[path] for path in sorted(files)}
