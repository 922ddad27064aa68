"""Credentials of clients of management: authorities for TLS, and the token of operators."""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from skysail_common.errors import FailedPrecondition, reason_of
from skysail_common.rpc.channels import open_channel

MIN_TOKEN_CHARACTERS = 16
"""Shortest token, because shorter ones could be guessed."""

_KEY = "authorization"
_SCHEME = "Bearer "


@dataclass(frozen=True)
class ManagementAccess:
    """Credentials of a client of management."""

    token: str = field(default="", repr=False)
    """Token of operators; calls carry none if empty."""
    ca_file: Path | None = None
    """Authorities of management's certificate, in PEM; no TLS if None."""

    def open_channel(self, endpoint: str, **options: Any) -> grpc.aio.Channel:
        """Return a channel to management whose calls carry the token.

        Args:
            endpoint: `host:port`, or `unix:/path`, which never uses TLS.
            options: See `channels.open_channel`.

        Raises:
            FailedPrecondition: the file of authorities cannot be read.
        """
        credentials = None
        if self.ca_file is not None and not endpoint.startswith("unix:"):
            credentials = grpc.ssl_channel_credentials(_read(self.ca_file))
        channel = open_channel(endpoint, credentials=credentials, **options)
        if not self.token:
            return channel
        return cast(grpc.aio.Channel, _ChannelWithToken(channel, self.token))


class _ChannelWithToken:
    """A channel that adds a token to calls; an interceptor would restrict the calls of stubs."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._metadata = (bearer(token),)

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._channel, name)
        return self._with_metadata(made) if name.endswith(("_unary", "_stream")) else made

    def _with_metadata(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def method(*arguments: Any, **options: Any) -> Callable[..., Any]:
            call = make(*arguments, **options)

            def called(*requests: Any, metadata: Any = None, **rest: Any) -> Any:
                return call(*requests, metadata=(*(metadata or ()), *self._metadata), **rest)

            return called

        return method

    async def __aenter__(self) -> "_ChannelWithToken":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._channel.close()


def bearer(token: str) -> tuple[str, str]:
    """Return the metadata that carries a token."""
    return (_KEY, f"{_SCHEME}{token}")


def token_of(metadata: Mapping[str, str | bytes]) -> str:
    """Return the token of a call; empty if the call has none."""
    value = metadata.get(_KEY, "")
    return value.removeprefix(_SCHEME) if isinstance(value, str) else ""


def is_same_token(one: str, other: str) -> bool:
    """Return whether two tokens are equal; the comparison takes constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def read_token(path: Path, setting: str = "") -> str:
    """Return the token in a file, without white space around it.

    Args:
        path: The file.
        setting: Variable that names the file, for the error.

    Raises:
        FailedPrecondition: the file cannot be read, or its token is too short or not ASCII.
    """
    token = _read(path, setting).decode(errors="replace").strip()
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable():
        raise FailedPrecondition(
            f"cannot use the token in {path}: it must be one line of at least "
            f"{MIN_TOKEN_CHARACTERS} ASCII characters, such as the output of 'openssl rand -hex 32'"
        )
    return token


def _read(path: Path, setting: str = "") -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = reason_of(error)
        fix = f"; set {setting} to a file that can be read" if setting else ""
        raise FailedPrecondition(f"cannot read {path}: {reason}{fix}") from None
