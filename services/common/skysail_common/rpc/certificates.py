"""TLS certificates of servers, read from files again after each renewal.

files ──► ServerCertificates ──► on_renewal ──► each server: new connections
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from skysail_common.errors import FailedPrecondition, reason_of

log = logging.getLogger(__name__)

_ATTEMPTS = 3
"""Attempts to read files that change during the read."""


@dataclass(frozen=True)
class Pem:
    """A certificate chain, its key and the authorities of clients, all in PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None
    """Authorities that must have signed the certificate of a client; None admits any client."""


class ServerCertificates:
    """The certificate of a server, up to date with its files."""

    def __init__(self, chain: Path, key: Path, client_ca: Path | None = None) -> None:
        """Read the files.

        Args:
            chain: File of the certificate, followed by the certificates up to its authority.
            key: File of its key, without a pass phrase.
            client_ca: File of the authorities of clients, if clients must have certificates.

        Raises:
            FailedPrecondition: a file cannot be read or lacks its content, or certificate and key
                do not match; the message names the file.
        """
        self._chain = chain
        self._key = key
        self._client_ca = client_ca
        self._callbacks: list[Callable[[], None]] = []
        self.pem: Pem
        """The certificate for servers with their own TLS implementation."""
        self.context: ssl.SSLContext
        """The certificate for servers that use `ssl`; the context offers no protocol by ALPN."""
        self._seen: object = None
        self._read()

    def _read(self) -> None:
        for _ in range(_ATTEMPTS):
            seen = self._look()
            context = self._make_context()
            client_ca = _bytes_of(self._client_ca) if self._client_ca else None
            pem = Pem(_bytes_of(self._chain), _bytes_of(self._key), client_ca)
            if self._look() == seen:
                self.pem, self.context, self._seen = pem, context, seen
                return
        raise FailedPrecondition(
            f"cannot read {self._chain} and {self._key}: the files changed {_ATTEMPTS} times during "
            "the read"
        )

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in (self._chain, self._key):
            # This read names the unreadable file; the error of ssl would not.
            _bytes_of(path)
        try:
            context.load_cert_chain(self._chain, self._key, password=_refuse_pass_phrase)
        except (OSError, _PassPhraseError) as error:
            raise FailedPrecondition(self._why_useless(error)) from error
        if self._client_ca is not None:
            _bytes_of(self._client_ca)
            try:
                context.load_verify_locations(self._client_ca)
            except OSError as error:
                raise FailedPrecondition(
                    f"{self._client_ca} contains no certificate of an authority in PEM"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _why_useless(self, error: Exception) -> str:
        if isinstance(error, _PassPhraseError):
            return f"the key {self._key} has a pass phrase; use a key without one"
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            return f"{self._key} is not the key of the certificate {self._chain}"
        if b"-----BEGIN CERTIFICATE-----" not in _bytes_of(self._chain):
            return f"{self._chain} contains no certificate in PEM"
        if b"PRIVATE KEY-----" not in _bytes_of(self._key):
            return f"{self._key} contains no private key in PEM"
        return f"cannot use the certificate {self._chain} with the key {self._key}: {error}"

    def _look(self) -> object:
        """Return a value that changes when a file is written or replaced."""
        found = []
        for path in (self._chain, self._key, self._client_ca):
            if path is not None:
                try:
                    status = path.stat()
                except OSError as error:
                    raise _cannot_read(path, error) from error
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def on_renewal(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change of `pem` and `context`.

        A callback that cannot use the new certificate raises `FailedPrecondition` and keeps the old
        one.
        """
        self._callbacks.append(callback)

    def renew(self) -> bool:
        """Read the files again if they have changed, and return whether they had.

        Raises:
            FailedPrecondition: as in `__init__`; the previous certificate stays in use.
        """
        if self._look() == self._seen:
            return False
        self._read()
        for callback in self._callbacks:
            callback()
        return True

    async def watch(self, every_s: float) -> None:
        """Renew in a loop; log unusable files and keep the previous certificate."""
        reason = ""
        while True:
            await asyncio.sleep(every_s)
            before, reason = reason, ""
            try:
                if self.renew():
                    log.info("certificate renewed", extra={"file": str(self._chain)})
            except FailedPrecondition as error:
                reason = error.message
                if reason != before:
                    log.error("certificate not renewed", extra={"error": reason})


class _PassPhraseError(Exception):
    """A key has a pass phrase."""


def _refuse_pass_phrase() -> str:
    # OpenSSL would ask for the pass phrase on the terminal if there were no callback.
    raise _PassPhraseError


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: OSError) -> FailedPrecondition:
    return FailedPrecondition(f"cannot read {path}: {reason_of(error)}; TLS needs this file")
