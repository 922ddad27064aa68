"""What servers show over TLS: read from files, and read again when those are renewed.

files ──► ServerCertificates ──► on_renewal ──► each server: connections that come from then on
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
"""Readings of files that change while they are read."""


@dataclass(frozen=True)
class Pem:
    """A certificate chain, its key, and whose clients are served; all are PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None
    """Authorities of which a client must have a certificate; anybody is served if None."""


class ServerCertificates:
    """The certificate of a server, as its files are."""

    def __init__(self, chain: Path, key: Path, client_ca: Path | None = None) -> None:
        """Reads the files.

        Args:
            chain: Certificate, then those that lead to its authority.
            key: Its key, without a pass phrase.
            client_ca: Authorities of clients, if these must have certificates.

        Raises:
            FailedPrecondition: a file cannot be read or has no such thing, or certificate and key
                do not match; the message names the file.
        """
        self._chain = chain
        self._key = key
        self._client_ca = client_ca
        self._callbacks: list[Callable[[], None]] = []
        self.pem: Pem
        """For servers that bring their own TLS."""
        self.context: ssl.SSLContext
        """For servers that take it from `ssl`; offers no protocol by ALPN."""
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
        raise FailedPrecondition(f"{self._chain} or {self._key} changed while they were read")

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in (self._chain, self._key):
            # For its message: ssl does not say which of both it could not read.
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
                    f"{self._client_ca} has no certificate of an authority in PEM"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _why_useless(self, error: Exception) -> str:
        if isinstance(error, _PassPhraseError):
            return f"the key {self._key} has a pass phrase; give one without"
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            return f"{self._key} is not the key of the certificate {self._chain}"
        if b"-----BEGIN CERTIFICATE-----" not in _bytes_of(self._chain):
            return f"{self._chain} has no certificate in PEM"
        if b"PRIVATE KEY-----" not in _bytes_of(self._key):
            return f"{self._key} has no private key in PEM"
        return f"the certificate {self._chain} with the key {self._key} is of no use: {error}"

    def _look(self) -> object:
        """Return what differs when a file was written, or another put in its place."""
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
        """Have `callback` called after `pem` and `context` have become others.

        It raises `FailedPrecondition` where it has no use for them, and keeps what it had.
        """
        self._callbacks.append(callback)

    def renew(self) -> bool:
        """Read the files again if they have changed, and tell whether they had.

        Raises:
            FailedPrecondition: as at first; what was read before stays.
        """
        if self._look() == self._seen:
            return False
        self._read()
        for callback in self._callbacks:
            callback()
        return True

    async def watch(self, every_s: float) -> None:
        """Renew for ever; what cannot be used is logged, and what there was is shown on."""
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
    # Without this OpenSSL would ask for it on the terminal.
    raise _PassPhraseError


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _cannot_read(path, error) from error


def _cannot_read(path: Path, error: OSError) -> FailedPrecondition:
    return FailedPrecondition(f"{path} cannot be read: {reason_of(error)}; TLS needs it")
