"""The version that a link is for, sent when it opens, because addresses are reused by replicas."""

from collections.abc import Mapping

from skysail_common.errors import FailedPrecondition
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.contract import Metadata

VERSION_KEY = "skysail-version"
ARTIFACT_KEY = "skysail-artifact"


def identity_metadata(version: ModelVersion, artifact_sha256: str) -> Metadata:
    """Return the metadata with which a frontend opens a link to a replica of a version."""
    return ((VERSION_KEY, str(version)), (ARTIFACT_KEY, artifact_sha256))


def check_identity(
    metadata: Mapping[str, str | bytes], version: ModelVersion, artifact_sha256: str
) -> None:
    """Check that a link is for this content of this version.

    Raises:
        FailedPrecondition: the link is for another version or content, or names none.
    """
    meant = metadata.get(VERSION_KEY)
    if meant != str(version):
        raise FailedPrecondition(
            f"cannot accept batches of version {meant!r}: this is a replica of {version}"
        )
    if metadata.get(ARTIFACT_KEY) != artifact_sha256:
        raise FailedPrecondition(
            f"cannot accept batches of {version}: this replica runs other content, of the artifact "
            f"{artifact_sha256[:12]}"
        )
