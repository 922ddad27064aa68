"""Every transport serves TLS and mutual TLS, and renews its certificates."""

from pathlib import Path

import grpc
import grpc.aio
import pytest

from skysail_common.errors import FailedPrecondition
from skysail_common.rpc.certificates import ServerCertificates
from skysail_testing.certificates import Certificate
from skysail_testing.transports import (
    STREAM,
    WAIT_S,
    calling,
    echo,
    echo_stream,
    failure,
    serving,
    unary_call,
)


async def is_served(endpoint: str, authority: Certificate, own: Certificate | None = None) -> bool:
    """Return whether the server is_served a new connection that trusts an authority."""
    shown = (own.key, own.pem) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, *shown)
    async with calling(endpoint, credentials) as channel:
        try:
            return await unary_call(channel)(b"x", timeout=WAIT_S) == b"x"
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise


async def test_calls_and_streams_over_tls(transport, tmp_path: Path):
    authority = Certificate("authority")
    files = Certificate("server", authority).write(tmp_path)
    certificates = ServerCertificates(*files)
    async with serving(transport, echo, echo_stream, certificates=certificates) as (_, endpoint):
        credentials = grpc.ssl_channel_credentials(authority.pem)
        async with calling(endpoint, credentials) as channel:
            message = bytes(3_000_000)
            assert await unary_call(channel)(message, timeout=WAIT_S) == message
            stream = channel.stream_stream(STREAM)(timeout=WAIT_S)
            await stream.write(b"one")
            assert await stream.read() == b"one"
        assert not await is_served(endpoint, Certificate("stranger"))
        async with calling(endpoint) as channel:
            error = await failure(unary_call(channel)(b"x", timeout=WAIT_S))
            assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_new_connections_see_renewed_certificates(transport, tmp_path: Path):
    old, new = Certificate("old authority"), Certificate("new authority")
    certificates = ServerCertificates(*Certificate("server", old).write(tmp_path))
    async with serving(transport, echo, certificates=certificates) as (_, endpoint):
        async with calling(endpoint, grpc.ssl_channel_credentials(old.pem)) as channel:
            call = unary_call(channel)
            assert await call(b"before", timeout=WAIT_S) == b"before"
            assert not certificates.renew()
            Certificate("server", new).write(tmp_path)
            assert certificates.renew()
            assert await is_served(endpoint, new)
            assert not await is_served(endpoint, old)
            assert await call(b"goes on", timeout=WAIT_S) == b"goes on"
            (tmp_path / "..data" / "tls.key").write_bytes(old.key)
            with pytest.raises(FailedPrecondition, match="is not the key of the certificate"):
                certificates.renew()
            assert await is_served(endpoint, new)


async def test_mutual_tls_serves_only_clients_of_the_authority(transport, tmp_path: Path):
    authority, others = Certificate("authority"), Certificate("authority of clients")
    (tmp_path / "clients.pem").write_bytes(others.pem)
    files = Certificate("server", authority).write(tmp_path)
    certificates = ServerCertificates(*files, tmp_path / "clients.pem")
    async with serving(transport, echo, certificates=certificates) as (_, endpoint):
        assert await is_served(endpoint, authority, Certificate("client", others))
        assert not await is_served(endpoint, authority)
        assert not await is_served(endpoint, authority, Certificate("client", authority))
        (tmp_path / "clients.pem").write_bytes(authority.pem + b"\n")
        assert certificates.renew()
        assert await is_served(endpoint, authority, Certificate("client", authority))
        assert not await is_served(endpoint, authority, Certificate("client", others))
