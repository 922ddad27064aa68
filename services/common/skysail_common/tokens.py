"""Tokens by which a replica proves to management which model version it is one of."""

import hashlib
import hmac

from skysail_common.identifiers import ModelVersion


def replica_token(secret: str, version: ModelVersion, artifact_sha256: str) -> str:
    """Return the token of the replicas of one content of a version.

    It is an HMAC, so that none is stored; it is of no use for what is registered later under the
    same name.
    """
    text = f"{version} {artifact_sha256}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def is_token_of(token: str, secret: str, version: ModelVersion, artifact_sha256: str) -> bool:
    """Return whether a token belongs to this content, compared in constant time."""
    expected = replica_token(secret, version, artifact_sha256)
    return hmac.compare_digest(token.encode(), expected.encode())
