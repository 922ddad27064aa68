"""Tokens by which a replica proves to management which model version it is one of."""

import hashlib
import hmac

from skysail_common.identifiers import ModelVersion


def replica_token(secret: str, version: ModelVersion) -> str:
    """Return the token of the replicas of a version: an HMAC, so that none need be stored."""
    return hmac.new(secret.encode(), str(version).encode(), hashlib.sha256).hexdigest()


def is_token_of(token: str, secret: str, version: ModelVersion) -> bool:
    """Tell whether a token is that of the version, in a time that tells nothing."""
    return hmac.compare_digest(token.encode(), replica_token(secret, version).encode())
