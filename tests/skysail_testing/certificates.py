"""Certificates of an authority, servers and clients, and their files."""

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HERE = ("localhost", "127.0.0.1")


class Certificate:
    """A certificate with its key; an authority unless it has an issuer."""

    def __init__(
        self,
        name: str,
        issuer: "Certificate | None" = None,
        *,
        names: Sequence[str] = HERE,
        days: float = 1.0,
    ) -> None:
        """Generate the key and sign the certificate.

        Args:
            name: Common name of the subject.
            issuer: Authority that signs the certificate; self-signed if None.
            names: Host names and addresses of the subject.
            days: Remaining validity; the certificate has expired if it is negative.
        """
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name((issuer or self).subject)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=30))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        )
        if issuer is not None:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general_name(each) for each in names]), False
            )
        certificate = builder.sign((issuer or self).private, hashes.SHA256())
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.key = self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def key_with_pass_phrase(self) -> bytes:
        """Return the key, encrypted."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Write `tls.crt` and `tls.key` atomically behind a link, as Kubernetes does."""
        directory.mkdir(exist_ok=True)
        version = directory / f"..{self.pem[-60:-50].hex()}"
        version.mkdir()
        (version / "tls.crt").write_bytes(self.pem)
        (version / "tls.key").write_bytes(self.key)
        link = directory / "..new"
        link.symlink_to(version.name)
        link.rename(directory / "..data")
        paths = directory / "tls.crt", directory / "tls.key"
        for path in paths:
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")
        return paths


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
