"""TLS and mutual TLS, with grpcio and between engines."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
from collections.abc import Callable

import grpc
import pytest
import skysail_transport as st
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from harness import BIDI, ECHO, PREFACE, Server
from links import Links


class Pair:
    """A certificate with its key, as PEM."""

    def __init__(self, name: str, issuer: "Pair | None" = None) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name((issuer or self).subject)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        )
        if issuer is not None:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate = builder.sign((issuer or self).private, hashes.SHA256())
        self.cert = certificate.public_bytes(serialization.Encoding.PEM)
        self.key = self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@pytest.fixture(scope="module")
def ca() -> Pair:
    return Pair("authority")


@pytest.fixture(scope="module")
def own(ca: Pair) -> Pair:
    return Pair("localhost", ca)


def test_grpcio(serve: Callable[..., Server], ca: Pair, own: Pair) -> None:
    server = serve(tls=st.ServerTls(own.cert, own.key))
    credentials = grpc.ssl_channel_credentials(ca.cert)
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(f"localhost:{server.port}", credentials, options) as channel:
        echo = channel.unary_unary(ECHO)
        message = bytes(range(256)) * 80_000
        assert echo(message, timeout=20) == message
        for _ in range(100):
            assert echo(b"x", timeout=5) == b"x"
        assert list(channel.stream_stream(BIDI)(iter([b"a", b"b"]), timeout=5)) == [b"a", b"b"]


def test_mutual_tls_with_grpcio(serve: Callable[..., Server], ca: Pair, own: Pair) -> None:
    server = serve(tls=st.ServerTls(own.cert, own.key, ca.cert))
    with_own = grpc.ssl_channel_credentials(ca.cert, own.key, own.cert)
    with grpc.secure_channel(f"localhost:{server.port}", with_own) as channel:
        assert channel.unary_unary(ECHO)(b"x", timeout=5) == b"x"
    without = grpc.ssl_channel_credentials(ca.cert)
    with grpc.secure_channel(f"localhost:{server.port}", without) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(ECHO)(b"x", timeout=2)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_links(serve: Callable[..., Server], has_own_thread: bool, ca: Pair, own: Pair) -> None:
    server = serve(tls=st.ServerTls(own.cert, own.key, ca.cert))
    links = Links(has_own_thread)
    other_ca = Pair("stranger")
    good = links.engine.open(server.address, BIDI, tls=st.ClientTls(ca.cert, own.cert, own.key))
    named = st.ClientTls(ca.cert, own.cert, own.key, server_name="elsewhere")
    bad = {
        "no certificate": links.engine.open(server.address, BIDI, tls=st.ClientTls(ca.cert)),
        "another authority": links.engine.open(
            server.address, BIDI, tls=st.ClientTls(other_ca.cert, own.cert, own.key)
        ),
        "another name": links.engine.open(server.address, BIDI, tls=named),
        "in the clear": links.engine.open(server.address, BIDI),
    }
    big = bytes(3_000_000)
    links.engine.flush([], [(good, b"hello"), (good, big)])
    links.until(lambda: len(links.messages.get(good, [])) == 2 and len(links.closed) == len(bad))
    assert links.messages[good] == [b"hello", big]
    assert {links.closed[id][0] for id in bad.values()} == {14}
    links.engine.close()


def test_a_renewed_certificate(serve: Callable[..., Server], ca: Pair, own: Pair) -> None:
    tls = st.ServerTls(own.cert, own.key)
    server = serve(tls=tls)
    other_ca = Pair("another authority")
    renewed = Pair("localhost", other_ca)

    def ask(trusted: Pair, shown: Pair | None = None) -> bytes:
        own = (shown.key, shown.cert) if shown else (None, None)
        credentials = grpc.ssl_channel_credentials(trusted.cert, *own)
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(f"localhost:{server.port}", credentials, options) as channel:
            answer: bytes = channel.unary_unary(ECHO)(b"x", timeout=5)
            return answer

    credentials = grpc.ssl_channel_credentials(ca.cert)
    with grpc.secure_channel(f"localhost:{server.port}", credentials) as channel:
        echo = channel.unary_unary(ECHO)
        assert echo(b"x", timeout=5) == b"x"
        for arguments in ((own.cert, renewed.key), (b"", b""), (own.cert, own.key, b"x")):
            with pytest.raises(ValueError, match="unusable"):
                tls.renew(*arguments)
        assert ask(ca) == b"x"
        tls.renew(renewed.cert, renewed.key)
        assert ask(other_ca) == b"x"
        with pytest.raises(grpc.RpcError):
            ask(ca)
        # The existing connection continues.
        assert echo(b"y", timeout=5) == b"y"
    tls.renew(renewed.cert, renewed.key, ca.cert)
    with pytest.raises(grpc.RpcError):
        ask(other_ca)
    assert ask(other_ca, own) == b"x"


def test_only_http_2(serve: Callable[..., Server], ca: Pair, own: Pair) -> None:
    server = serve(tls=st.ServerTls(own.cert, own.key))
    context = ssl.create_default_context(cadata=ca.cert.decode())
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", server.port))
    with context.wrap_socket(plain, server_hostname="localhost") as encrypted:
        assert encrypted.selected_alpn_protocol() == "h2"
    context.set_alpn_protocols(["http/1.1"])
    plain = socket.create_connection(("127.0.0.1", server.port))
    with plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname="localhost").recv(1)


def test_without_alpn(serve: Callable[..., Server], ca: Pair, own: Pair) -> None:
    server = serve(tls=st.ServerTls(own.cert, own.key))
    context = ssl.create_default_context(cadata=ca.cert.decode())
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    with context.wrap_socket(plain, server_hostname="localhost") as encrypted:
        assert encrypted.selected_alpn_protocol() is None
        assert encrypted.recv(1) == b""
    server.until(lambda: server.engine.counters()["connections"] == 0)


def test_plain_text_on_a_tls_port(serve: Callable[..., Server], ca: Pair, own: Pair) -> None:
    server = serve(tls=st.ServerTls(own.cert, own.key), handshake_timeout_s=0.5)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for first in (PREFACE, b"GET / HTTP/1.1\r\n\r\n", bytes(1000), hello, hello + bytes(2000), b""):
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain:
            plain.sendall(first)
            with contextlib.suppress(ConnectionResetError):
                while plain.recv(1 << 16):
                    pass
    server.until(lambda: server.engine.counters()["connections"] == 0)
    links = Links(False)
    id = links.engine.open(server.address, BIDI, tls=st.ClientTls(ca.cert))
    links.until(lambda: id in links.accepted)
    links.engine.close()


def test_invalid_certificates(own: Pair) -> None:
    for arguments in ((b"", own.key), (own.cert, b""), (own.cert, own.key, b"x")):
        with pytest.raises(ValueError, match="unusable"):
            st.ServerTls(*arguments)
    with pytest.raises(ValueError, match="needs its key"):
        st.ClientTls(own.cert, own.cert)
