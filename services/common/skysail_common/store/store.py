"""Records with revisions, changed all at once or not at all."""

import secrets
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from skysail_common.errors import Conflict, FailedPrecondition, StoreUnavailable
from skysail_common.store.keys import FORMAT, Table, meta_key, table_key

ABSENT = 0
"""Revision of a record that does not exist."""

_TIMEOUT_S = 2.0

# Checks every expected revision before it changes anything; a script runs alone, so that a
# commit is seen whole or not at all. A value is its revision, a line feed, and JSON. A commit that
# was made but whose answer got lost is sent again under the same id and answered as before.
_COMMIT = """
if redis.call('HGET', KEYS[1], 'last_commit') == ARGV[1] then
  return {tonumber(redis.call('HGET', KEYS[1], 'revision')), ''}
end
local count = #KEYS - 1
for i = 0, count - 1 do
  local key, field, expected = KEYS[2 + i], ARGV[2 + i * 3], ARGV[3 + i * 3]
  local stored = redis.call('HGET', key, field)
  local revision = '0'
  if stored then revision = string.sub(stored, 1, string.find(stored, '\\n', 1, true) - 1) end
  if revision ~= expected then return {-1, field} end
end
local revision = redis.call('HINCRBY', KEYS[1], 'revision', 1)
redis.call('HSET', KEYS[1], 'last_commit', ARGV[1])
for i = 0, count - 1 do
  local key, field, value = KEYS[2 + i], ARGV[2 + i * 3], ARGV[4 + i * 3]
  if value == '' then redis.call('HDEL', key, field)
  else redis.call('HSET', key, field, revision .. '\\n' .. value) end
end
return {revision, ''}
"""


@dataclass(frozen=True)
class Stored:
    """A record as it is in the store."""

    revision: int
    json: str


@dataclass(frozen=True)
class Change:
    """One record to write or to remove."""

    table: Table
    name: str
    expected_revision: int
    """Revision that the record must have; `ABSENT` where it must not exist."""
    json: str | None
    """The new value; None to remove the record."""


class Store:
    """The records of one cluster, in a server that speaks the Redis protocol."""

    def __init__(self, url: str, cluster: str) -> None:
        """Connects lazily: nothing is sent before the first call.

        Args:
            url: Such as `redis://host:6379/0`, `rediss://…` or `unix:///path`.
            cluster: Name of the cluster.
        """
        self._cluster = cluster
        self._redis = redis.asyncio.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=1),
        )
        self._commit = self._redis.register_script(_COMMIT)

    async def open(self) -> None:
        """Make sure that the server answers and holds this layout.

        Raises:
            StoreUnavailable: the server does not answer.
            FailedPrecondition: another version of Skysail laid out its keys.
        """
        with _translated():
            await self._call(self._redis.hsetnx(meta_key(self._cluster), "format", FORMAT))
            found = await self._call(self._redis.hget(meta_key(self._cluster), "format"))
        if found != FORMAT:
            raise FailedPrecondition(
                f"the store holds cluster {self._cluster!r} in format {found}, not {FORMAT}; "
                "use another store or the Skysail that wrote it"
            )

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Return if the server answers.

        Raises:
            StoreUnavailable: it does not.
        """
        with _translated():
            await self._call(self._redis.ping())

    async def secret(self) -> str:
        """Return the key of the replicas' tokens; the first caller makes it.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        key = meta_key(self._cluster)
        with _translated():
            await self._call(self._redis.hsetnx(key, "secret", secrets.token_hex(32)))
            return cast(str, await self._call(self._redis.hget(key, "secret")))

    async def read(self, table: Table) -> dict[str, Stored]:
        """Return every record of a table by its name.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        with _translated():
            rows = await self._call(self._redis.hgetall(table_key(self._cluster, table)))
        return {name: _parse(value) for name, value in cast(dict[str, str], rows).items()}

    async def commit(self, changes: Sequence[Change]) -> int:
        """Make all changes at once and return the revision that the written records now have.

        Raises:
            Conflict: a record did not have the expected revision; nothing was changed.
            StoreUnavailable: the server does not answer; whether the changes were made is not
                known.
        """
        keys = [meta_key(self._cluster)]
        arguments: list[str | int] = [secrets.token_hex(8)]
        for change in changes:
            keys.append(table_key(self._cluster, change.table))
            arguments += [change.name, change.expected_revision, change.json or ""]
        with _translated():
            revision, name = await self._call(self._commit(keys=keys, args=arguments))
        if revision < 0:
            raise Conflict(f"{name!r} was changed by another at the same time; read it and retry")
        return int(revision)

    @staticmethod
    async def _call(answer: Awaitable[object] | object) -> Any:
        # redis-py types its commands for both the blocking and the asyncio client.
        return await cast("Awaitable[object]", answer)


def _parse(value: str) -> Stored:
    revision, _, json = value.partition("\n")
    return Stored(int(revision), json)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(
            f"the store does not answer: {str(error) or type(error).__name__}"
        ) from error
