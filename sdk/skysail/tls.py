"""TLS of clients: credentials for frontends, and reasons of failed handshakes."""

import socket
import ssl
from pathlib import Path

import grpc

from skysail_common.errors import FailedPrecondition, reason_of
from skysail_common.process.sockets import split_host_port

_TIMEOUT_S = 1.0

# OpenSSL's codes of a certificate that does not name the host, or the IP address.
_OTHER_NAME = (62, 64)
_OTHER_NAME_FIX = (
    "; the certificate must name the address that clients dial: set "
    "SKYSAIL_FRONTEND_ADVERTISED_GRPC_ENDPOINT of the frontend to one that it names, or "
    "SKYSAIL_TLS_SERVER_NAME of the client to its name"
)


class ClientTls:
    """Authorities that a client trusts, and the certificate that it shows, if any."""

    def __init__(
        self,
        ca: Path,
        certificate: Path | None = None,
        key: Path | None = None,
        server_name: str = "",
    ) -> None:
        """Stores the paths of the files, which each connection reads again.

        Args:
            ca: Authorities that sign the certificates of frontends.
            certificate: Certificate of the client.
            key: Key of that certificate.
            server_name: Name in the certificates of frontends; the host of the endpoint if empty.

        Raises:
            FailedPrecondition: a file is missing or unusable; the message names it.
        """
        self.ca = ca
        self.certificate = certificate
        self.key = key
        self.server_name = server_name
        if (certificate is None) != (key is None):
            given, missing = ("certificate", "key") if certificate else ("key", "certificate")
            raise FailedPrecondition(
                f"cannot use tls_{given}_file: tls_{missing}_file is missing; give both"
            )
        self.context()
        self.credentials()

    def credentials(self) -> grpc.ChannelCredentials:
        """Return credentials for gRPC from the files.

        Raises:
            FailedPrecondition: a file is missing or unusable.
        """
        files = (self.ca, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(_bytes_of(each) if each else None for each in files))

    def context(self) -> ssl.SSLContext:
        """Return a context for `ssl` from the files.

        Raises:
            FailedPrecondition: a file is missing or unusable.
        """
        for path in (self.ca, self.certificate, self.key):
            if path is not None:
                _bytes_of(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(self.ca)
        except OSError as error:
            raise FailedPrecondition(
                f"{self.ca} has no certificate of an authority in PEM"
            ) from error
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password="")
            except OSError as error:
                raise FailedPrecondition(
                    f"{self.certificate} and {self.key} are no certificate and its key in PEM "
                    "without a pass phrase"
                ) from error
        return context


def client_tls(
    ca: str | Path | None,
    certificate: str | Path | None,
    key: str | Path | None,
    server_name: str = "",
) -> ClientTls | None:
    """Return the credentials of a client; None if queries go in the clear.

    Raises:
        FailedPrecondition: a file is missing or unusable; the message names it.
    """
    if ca is None:
        if certificate or key:
            raise FailedPrecondition(
                f"cannot use {certificate or key}: queries do not go over TLS; set tls_ca_file or "
                "SKYSAIL_TLS_CA_FILE too"
            )
        return None
    return ClientTls(
        Path(ca),
        Path(certificate) if certificate else None,
        Path(key) if key else None,
        server_name,
    )


def tls_failure(endpoint: str, tls: ClientTls | None) -> str | None:
    """Return the reason of a failed TLS handshake; None if the connection failed otherwise."""
    if endpoint.startswith("unix:"):
        return None
    context = tls.context() if tls else _trusting()
    context.set_alpn_protocols(["h2"])
    try:
        host, port = split_host_port(endpoint)
        plain = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    except (OSError, ValueError):
        return None
    with plain:
        try:
            name = (tls.server_name if tls else "") or host
            encrypted = context.wrap_socket(plain, server_hostname=name)
        except OSError as error:
            return None if tls is None else _why_no_handshake(error, endpoint, tls)
        with encrypted:
            if tls is None:
                return (
                    f"{endpoint} wants TLS; give tls_ca_file, or SKYSAIL_TLS_CA_FILE: a file with "
                    "the authority of its certificate"
                )
            return _why_refused(encrypted, endpoint, tls)


def _trusting() -> ssl.SSLContext:
    """Return a context that accepts any certificate, to detect whether the peer speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _why_no_handshake(error: OSError, endpoint: str, tls: ClientTls) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        fix = _OTHER_NAME_FIX if error.verify_code in _OTHER_NAME else ""
        return f"the certificate of {endpoint} is not accepted: {why} (authorities: {tls.ca}){fix}"
    if isinstance(error, TimeoutError):
        return None
    if alert := _alert_of(error):
        return _refused(endpoint, tls, alert)
    return f"{endpoint} does not speak TLS, which tls_ca_file or SKYSAIL_TLS_CA_FILE asks for"


def _why_refused(encrypted: ssl.SSLSocket, endpoint: str, tls: ClientTls) -> str | None:
    # The first bytes of a server of TLS 1.3 show whether it accepts the certificate of a client;
    # grpc.aio closes the connection without an alert.
    try:
        has_answered = bool(encrypted.recv(1))
    except OSError as error:
        alert = _alert_of(error)
        return _refused(endpoint, tls, alert) if alert else None
    return None if has_answered else _refused(endpoint, tls, "it ends the connection")


def _alert_of(error: OSError) -> str:
    """Return the TLS alert of the peer; empty if it sent none."""
    reason = (getattr(error, "reason", None) or "").lower().replace("_", " ")
    return reason if "alert" in reason else ""


def _refused(endpoint: str, tls: ClientTls, reason: str) -> str:
    if tls.certificate is not None:
        return f"{endpoint} does not accept the certificate {tls.certificate}: {reason}"
    return (
        f"{endpoint} wants a certificate of the client ({reason}); give tls_certificate_file and "
        "tls_key_file, or SKYSAIL_TLS_CERTIFICATE_FILE and SKYSAIL_TLS_KEY_FILE"
    )


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = reason_of(error)
        raise FailedPrecondition(f"cannot read {path}: {reason}; TLS needs this file") from error
