"""A Redis table that gateways share: small records by name, rarely changed, read whole."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, TypeVar

from budgateway.redis.connection import Connection
from budgateway.redis.discovery import Dialler, reason
from budgateway.redis.reply import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from budgateway.records import StoreSettings
    from budgateway.redis.reply import Reply, Word

Found = TypeVar("Found")

MAX_WAIT_S = 5.0  # no client request waits for it
TRIES = 20  # tries of a change while others change the table, too

# KEYS: records, version; ARGV: the version that the change is based on, the number of records to put, names and
# records, names to delete. Returns the new version, or nothing when another writer was faster.
_CHANGE = """
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[1] then
  return false
end
local puts = tonumber(ARGV[2])
for i = 3, 2 + 2 * puts, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
for i = 3 + 2 * puts, #ARGV do
  redis.call('HDEL', KEYS[1], ARGV[i])
end
return redis.call('INCR', KEYS[2])
"""


class SharedTable:
    """A hash `PREFIX:{NAMESPACE}:records`, and `PREFIX:{NAMESPACE}:version`, a number that every change increments.

    Every method blocks, for seconds at worst, and raises OSError when Redis cannot be queried. Each call has a
    connection of its own, and may come from any thread.
    """

    def __init__(self, settings: StoreSettings, prefix: str) -> None:
        self._settings = settings
        self._records = f"{prefix}:{{{settings.namespace}}}:records"
        self._version = f"{prefix}:{{{settings.namespace}}}:version"

    def version(self) -> int:
        """Return the version, 0 before the first change. A cheap query."""
        return _blocking(self._with_connection(self._read_version))

    def read(self) -> dict[str, bytes]:
        """Return all records by name."""
        return _blocking(self._with_connection(self._read_both))[1]

    def change(self, edit: Callable[[Mapping[str, bytes]], tuple[Found, Mapping[str, bytes | None]]]) -> Found:
        """Call `edit` with all records, put those that it returns (or, for None, delete them), and return its result.
        Atomic: when another writer was faster, `edit` is called again with the current records."""

        async def try_all(connection: Connection) -> Found:
            for _ in range(TRIES):
                version, records = await self._read_both(connection)
                found, changes = edit(records)
                if await self._put(connection, version, changes):
                    return found
            raise StoreError("the table is being changed by others", "BUSY")

        return _blocking(self._with_connection(try_all))

    async def _with_connection(self, work: Callable[[Connection], Coroutine[object, object, Found]]) -> Found:
        dialler = Dialler(self._settings)
        connection = Connection(_ended, _answered)
        try:
            await dialler.connect(await dialler.find(), connection)
            return await work(connection)
        except (StoreError, OSError, TimeoutError) as error:
            raise OSError(f"redis: {reason(error)}") from error
        finally:
            connection.abort("done")
            await asyncio.sleep(0)  # lets the transport close

    async def _read_version(self, connection: Connection) -> int:
        found = await _ask(connection, "GET", self._version)
        return int(found) if isinstance(found, bytes) else 0

    async def _read_both(self, connection: Connection) -> tuple[int, dict[str, bytes]]:
        # The version first: a change in between may already show in the records, and shows in the version the next
        # time.
        version = await self._read_version(connection)
        found = await _ask(connection, "HGETALL", self._records)
        flat = [item if isinstance(item, bytes) else b"" for item in found] if isinstance(found, list) else []
        return version, {name.decode(): record for name, record in zip(flat[::2], flat[1::2])}

    async def _put(self, connection: Connection, version: int, changes: Mapping[str, bytes | None]) -> bool:
        puts = [(name, record) for name, record in changes.items() if record is not None]
        gone = [name for name, record in changes.items() if record is None]
        words: list[Word] = [word for pair in puts for word in pair]
        reply = await _ask(
            connection, "EVAL", _CHANGE, 2, self._records, self._version, str(version), len(puts), *words, *gone
        )
        return reply is not None


async def _ask(connection: Connection, *command: Word) -> Reply:
    return await connection.ask(*command, timeout_s=MAX_WAIT_S)


def _blocking(work: Coroutine[object, object, Found]) -> Found:
    """Run the coroutine on a new loop in a new thread, because this thread's loop may be running."""
    results: list[Found] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            errors.append(error)

    thread = threading.Thread(target=run, name="store table", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _ended(_connection: Connection, _reason: str) -> None:
    pass


def _answered(_in_time: bool) -> None:
    pass
