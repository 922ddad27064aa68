"""Every transport links a frontend to a model server in the same way."""

import asyncio
from pathlib import Path

import pytest

from skysail_common.errors import FailedPrecondition, InvalidInput, Unavailable
from skysail_common.rpc.contract import Stream
from skysail_testing.transports import STREAM, WAIT_S, serving


class Observer:
    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future[tuple[str, bool]] = asyncio.get_running_loop().create_future()

    def link_received(self, message: bytes) -> None:
        self.messages.put_nowait(message)

    def link_closed(self, reason: str, has_died: bool) -> None:
        self.closed.set_result((reason, has_died))

    async def next(self) -> bytes:
        return await asyncio.wait_for(self.messages.get(), WAIT_S)


async def accept_and_echo(stream: Stream) -> None:
    await stream.accept()
    async for message in stream:
        if message == b"end":
            return
        if message == b"fail":
            raise Unavailable("draining")
        await stream.send(message)


@pytest.mark.parametrize("where", ["tcp", "unix"])
async def test_a_link_carries_messages_both_ways(transport, where, tmp_path: Path):
    address = "127.0.0.1:0" if where == "tcp" else f"unix:{tmp_path}/s"
    async with serving(transport, stream=accept_and_echo, address=address) as (_, endpoint):
        observer = Observer()
        link = await transport.connect(endpoint, STREAM, observer)
        for message in (b"", b"one", b"x" * 3_000_000):
            link.send(message)
            assert await observer.next() == message
        link.close()
        link.send(b"after")
        await asyncio.sleep(0)
        assert not observer.closed.done()


@pytest.mark.parametrize(("last", "has_died"), [(b"end", False), (b"fail", True)])
async def test_a_closed_link_has_a_reason(transport, last, has_died):
    async with serving(transport, stream=accept_and_echo) as (_, endpoint):
        observer = Observer()
        link = await transport.connect(endpoint, STREAM, observer)
        link.send(last)
        reason, died = await asyncio.wait_for(observer.closed, WAIT_S)
        assert died is has_died
        assert reason
        link.send(b"after")
        link.close()


async def test_a_missing_peer_is_unavailable(transport, tmp_path: Path):
    with pytest.raises(Unavailable, match="does not take batches"):
        await asyncio.wait_for(
            transport.connect(f"unix:{tmp_path}/nobody", STREAM, Observer()), WAIT_S
        )


@pytest.mark.parametrize(
    ("refusal", "raised"),
    [
        (Unavailable("not ready yet"), Unavailable),
        (FailedPrecondition("somebody else"), FailedPrecondition),
        (InvalidInput("no such stream"), Unavailable),
    ],
)
async def test_a_peer_may_refuse_a_link_by_its_metadata(transport, refusal, raised):
    async def refusing(stream: Stream) -> None:
        if stream.metadata().get("skysail-test") != "please":
            raise refusal
        await accept_and_echo(stream)

    async with serving(transport, stream=refusing) as (_, endpoint):
        with pytest.raises(raised, match=f"does not take batches: {refusal}"):
            await asyncio.wait_for(transport.connect(endpoint, STREAM, Observer()), WAIT_S)
        observer = Observer()
        link = await transport.connect(endpoint, STREAM, observer, (("skysail-test", "please"),))
        link.send(b"one")
        assert await observer.next() == b"one"
        link.close()
