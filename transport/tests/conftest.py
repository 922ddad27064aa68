"""Fixtures: servers and channels that are closed after the test."""

from collections.abc import Callable, Iterator

import grpc
import pytest
from harness import Server


@pytest.fixture(params=[False, True], ids=["inline", "own-thread"])
def has_own_thread(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def serve(has_own_thread: bool) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**options: object) -> Server:
        servers.append(Server(has_own_thread, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve()


@pytest.fixture
def connect() -> Iterator[Callable[..., grpc.Channel]]:
    channels: list[grpc.Channel] = []

    def open_channel(address: str, *options: tuple[str, object]) -> grpc.Channel:
        always = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.default_authority", "localhost"),
        ]
        channels.append(grpc.insecure_channel(address, [*always, *options]))
        return channels[-1]

    yield open_channel
    for channel in channels:
        channel.close()


@pytest.fixture
def channel(server: Server, connect: Callable[..., grpc.Channel]) -> grpc.Channel:
    return connect(server.address)
