"""Says, as a link opens, which version its batches are for: an address may be given to another."""

from collections.abc import Mapping

from skysail_common.errors import FailedPrecondition
from skysail_common.identifiers import ModelVersion
from skysail_common.rpc.contract import Metadata

VERSION_KEY = "skysail-version"
ARTIFACT_KEY = "skysail-artifact"


def identity_metadata(version: ModelVersion, artifact_sha256: str) -> Metadata:
    """Return what a frontend sends as it opens a link to a replica of a version."""
    return ((VERSION_KEY, str(version)), (ARTIFACT_KEY, artifact_sha256))


def check_identity(
    metadata: Mapping[str, str | bytes], version: ModelVersion, artifact_sha256: str
) -> None:
    """Return if a link is meant for this content of this version.

    Raises:
        FailedPrecondition: it is meant for another, or does not say for which.
    """
    meant = metadata.get(VERSION_KEY)
    if meant != str(version):
        raise FailedPrecondition(
            f"cannot take batches of version {meant!r}: this is a replica of {version}"
        )
    if metadata.get(ARTIFACT_KEY) != artifact_sha256:
        raise FailedPrecondition(
            f"cannot take batches of {version}: this replica runs other content, of the artifact "
            f"{artifact_sha256[:12]}"
        )
