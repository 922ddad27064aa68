"""Tokens by which a replica proves its model version to management."""

import hashlib
import hmac

from skysail_common.identifiers import ModelVersion


def replica_token(secret: str, version: ModelVersion, artifact_sha256: str) -> str:
    """Return the token for the replicas of one content of a version.

    The token is an HMAC, so that management stores none. It does not fit other content that is
    registered later under the same name.
    """
    text = f"{version} {artifact_sha256}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def is_token_of(token: str, secret: str, version: ModelVersion, artifact_sha256: str) -> bool:
    """Return whether a token belongs to this content; the comparison takes constant time."""
    expected = replica_token(secret, version, artifact_sha256)
    return hmac.compare_digest(token.encode(), expected.encode())
