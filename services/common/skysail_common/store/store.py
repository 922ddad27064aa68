"""Records with revisions; one owner at a time changes them, by atomic commits."""

import asyncio
import secrets
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from skysail_common.errors import (
    Conflict,
    FailedPrecondition,
    InvalidInput,
    StoreLost,
    StoreTaken,
)
from skysail_common.store import scripts
from skysail_common.store.keys import FORMAT, Table, meta_key, table_key
from skysail_common.store.owner import Owner, StoreState
from skysail_common.store.refusals import translated

ABSENT = 0
"""Revision of a record that does not exist."""

_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Stored:
    """A record of the store with its revision."""

    revision: int
    json: str


@dataclass(frozen=True)
class RecordChange:
    """One record to write or to remove."""

    table: Table
    name: str
    expected_revision: int
    """Revision that the record must have; `ABSENT` if it must not exist."""
    json: str | None
    """The new value; None to remove the record."""


@dataclass(frozen=True)
class Contents:
    """Every record at one instant."""

    revision: int
    """Number of the last commit."""
    tables: Mapping[Table, Mapping[str, Stored]]


@dataclass(frozen=True)
class _Ownership:
    """The ownership that this process holds."""

    id: str
    epoch: int
    claim: str
    owner: Owner


class Store:
    """The records of one cluster, in a server that speaks the Redis protocol.

    `look`, `ping`, `secret` and `read` need no ownership. All other methods need it; it lasts from
    `take` to `release`. The server refuses an owner with a successor, and one whose data it lost:

        StoreTaken: another management owns the store now.
        StoreLost: the store is empty, holds an older state than this owner saw, or is another store.
    """

    def __init__(self, url: str, cluster: str) -> None:
        """Create the client; the first call connects.

        Args:
            url: URL such as `redis://host:6379/0`, `rediss://…` or `unix:///path`.
            cluster: Name of the cluster.

        Raises:
            InvalidInput: the URL is not usable.
        """
        self._cluster = cluster
        if _has_odd_password(url):
            # The client would parse parts of the password as host and port, and show them in errors.
            raise InvalidInput(
                f"cannot use the store at {_without_password(url)!r}: its password has a character "
                "that ends a host; write it into SKYSAIL_REDIS_URL percent-encoded (/ as %2F, ? as "
                "%3F, # as %23)"
            )
        try:
            self._redis = redis.asyncio.Redis.from_url(
                url,
                decode_responses=True,
                # Protocol 3 reports a missing password as an error about HELLO.
                protocol=2,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=1),
            )
        except ValueError as error:
            raise InvalidInput(
                f"cannot use the store at {_without_password(url)!r}: {error}; set SKYSAIL_REDIS_URL "
                "to a URL such as redis://host:6379/0"
            ) from None
        self._keys = [meta_key(cluster), *(table_key(cluster, table) for table in Table)]
        self._ownership: _Ownership | None = None
        self._revision = 0
        self._secret = ""

    @property
    def id(self) -> str:
        """Name of the owned store; empty before `take`."""
        return self._ownership.id if self._ownership else ""

    @property
    def epoch(self) -> int:
        """Number of the ownership; 0 before `take`."""
        return self._ownership.epoch if self._ownership else 0

    @property
    def revision(self) -> int:
        """Number of the last known commit."""
        return self._revision

    async def look(self) -> StoreState:
        """Return the revision and the owner of the store.

        Raises:
            StoreUnavailable: the server does not answer.
            StoreRefused: the server refuses the client.
            FailedPrecondition: the keys have the layout of another version of Skysail.
        """
        id_, epoch, revision, format_, owner, renewed, now, records = await self._run(
            scripts.LOOK, self._keys
        )
        if format_ not in ("", FORMAT):
            raise FailedPrecondition(
                f"the store holds cluster {self._cluster!r} in format {format_}, not {FORMAT}; "
                "use another store or the Skysail that wrote it"
            )
        idle_s = (int(now) - int(renewed or 0)) / 1000
        return StoreState(
            id_, int(epoch), int(revision), int(records), Owner.of(owner), renewed, idle_s
        )

    async def take(self, owner: Owner, state: StoreState, above_epoch: int = 0) -> None:
        """Become the owner, with a higher epoch than all before.

        Args:
            owner: The new owner.
            state: Result of `look`, which must still hold.
            above_epoch: Epoch of a former owner before the store lost its data.

        Raises:
            Conflict: another management took or renewed the store since `look`.
            StoreUnavailable: the server does not answer; the ownership is unknown.
        """
        hold = _Ownership(
            state.id or secrets.token_hex(8),
            max(state.epoch, above_epoch) + 1,
            secrets.token_hex(8),
            owner,
        )
        outcome, *rest = await self._run(
            scripts.TAKE,
            self._keys[:1],
            state.id, state.epoch, state.renewed,
            hold.id, hold.epoch, hold.claim, owner.to_json(), FORMAT, secrets.token_hex(32),
        )  # fmt: skip
        if outcome == "changed":
            raise Conflict("another management takes the store at the same time")
        self._ownership, self._revision = hold, int(rest[0])
        self._secret = await self.secret()

    async def renew(self) -> None:
        """Renew the lease of the owner.

        Raises:
            SkysailError: see the class; StoreUnavailable if the server does not answer.
        """
        await self._fenced(scripts.RENEW, self._keys[:1])

    async def release(self) -> None:
        """Let another management become the owner at once.

        Raises:
            SkysailError: as `renew`; the lease then expires.
        """
        await self._fenced(scripts.RELEASE, self._keys[:1])
        self._ownership = None

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Check that the server answers.

        Raises:
            StoreUnavailable: the server does not answer.
            StoreRefused: the server refuses the client.
        """
        with translated():
            await self._call(self._redis.ping())

    async def secret(self) -> str:
        """Return the key of the replicas' tokens, which the first owner created.

        Raises:
            StoreUnavailable: the server does not answer.
            StoreLost: the store has no key.
        """
        with translated():
            found = await self._call(self._redis.hget(self._keys[0], "secret"))
        if not found:
            raise StoreLost("the store is empty: no management has owned it yet")
        return cast(str, found)

    async def read(self) -> Contents:
        """Return every record at one instant.

        Raises:
            SkysailError: see the class; StoreUnavailable if the server does not answer.
        """
        revision, *tables = await self._fenced(scripts.READ, self._keys)
        return Contents(
            int(revision),
            {
                table: {
                    name: _parse(value) for name, value in zip(flat[::2], flat[1::2], strict=True)
                }
                for table, flat in zip(Table, tables, strict=True)
            },
        )

    async def commit(self, changes: Sequence[RecordChange]) -> int:
        """Apply all changes atomically and return the new revision of the written records.

        Raises:
            Conflict: a record did not have the expected revision; no record changed.
            StoreTaken, StoreLost: see the class; no record changed.
            StoreUnavailable: the server does not answer; the outcome is unknown.
        """
        assert self._ownership is not None, "only an owner commits"
        keys = [self._keys[0]]
        arguments: list[str | int] = [secrets.token_hex(8)]
        for change in changes:
            keys.append(table_key(self._cluster, change.table))
            arguments += [change.name, change.expected_revision, change.json or ""]
        (revision,) = await self._fenced(scripts.COMMIT, keys, *arguments)
        return int(revision)

    async def restore(self, contents: Contents) -> None:
        """Write records back into a store that came back empty or with an older state.

        Raises:
            StoreTaken: another management owns the store now.
            StoreLost: the store holds the data of another cluster.
            StoreUnavailable: the server does not answer; the outcome is unknown.
        """
        hold = self._ownership
        assert hold is not None, "only an owner restores"
        revision = max(contents.revision, self._revision)
        rows: list[str | int] = []
        for number, table in enumerate(Table, start=2):
            for name, stored in contents.tables[table].items():
                rows += [number, name, f"{stored.revision}\n{stored.json}"]
        answer = await self._run(
            scripts.RESTORE,
            self._keys,
            hold.id, hold.epoch, hold.claim, revision, hold.owner.to_json(), FORMAT, self._secret, *rows,
        )  # fmt: skip
        self._checked(answer)

    async def _fenced(self, script: str, keys: Sequence[str], *arguments: str | int) -> list[Any]:
        claim = self._ownership.claim if self._ownership else ""
        fence = (self.id, self.epoch, claim, self._revision)
        return self._checked(await self._run(script, keys, *fence, *arguments))

    def _checked(self, answer: list[Any]) -> list[Any]:
        outcome, *rest = answer
        if outcome == "taken":
            raise taken_by(Owner.of(rest[0]))
        if outcome == "lost":
            raise StoreLost(lost_text(self.id, self._revision, rest[0], int(rest[1])))
        if outcome == "conflict":
            raise Conflict(
                f"cannot change {rest[0]!r}: another client changed it first; read it and retry"
            )
        if self._ownership is not None:
            self._revision = max(self._revision, int(rest[0]))
        return rest

    async def _run(self, script: str, keys: Sequence[str], *arguments: str | int) -> list[Any]:
        with translated():
            answer = await self._call(self._redis.eval(script, len(keys), *keys, *arguments))
        return cast("list[Any]", answer)

    @staticmethod
    async def _call(answer: Awaitable[object] | object) -> Any:
        # redis-py types its commands for both the blocking and the asyncio client. It calls wait_for,
        # which before Python 3.12 loses a cancellation that comes at the same time as its result. The
        # separate task keeps that from losing the cancellation of the caller.
        asking = asyncio.ensure_future(cast("Awaitable[object]", answer))
        try:
            await asyncio.wait({asking})
            return asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)


def taken_by(owner: Owner | None) -> StoreTaken:
    """Return the error for a former owner."""
    who = f"by {owner}" if owner else "by a management that has ended since"
    return StoreTaken(f"the store was taken over {who}; send changes to the present owner")


def lost_text(id_: str, revision: int, found_id: str, found_revision: int) -> str:
    """Return the problem of a store that lost data, and its fix."""
    if found_id and found_id != id_:
        return (
            f"the store is another one: {found_id} at revision {found_revision}, not {id_}; set "
            "SKYSAIL_REDIS_URL to the store of this cluster"
        )
    what = (
        f"is older than it was: at revision {found_revision}, not {revision}"
        if found_id
        else f"came back empty: it was at revision {revision}"
    )
    return (
        f"the store {what}; restore its data, or write back the records of management with "
        "'skysail store restore'"
    )


def _parse(value: str) -> Stored:
    revision, _, json = value.partition("\n")
    return Stored(int(revision), json)


def _has_odd_password(url: str) -> bool:
    """Return whether the password of a URL has a character that ends the host part too soon."""
    scheme, _, rest = url.partition("://")
    return scheme in ("redis", "rediss") and "@" in rest and "@" not in urlsplit(url).netloc


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
