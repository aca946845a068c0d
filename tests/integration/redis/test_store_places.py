"""Discovery of Redis and access to it: TLS, ACL, Sentinel with a failover, Cluster with a slot that moves."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from integration.certificates import Authority
from integration.redises import Redis, needs_redis, redis_server
from ports import free_port

from budgateway.limits.demand import Demand, Kind
from budgateway.limits.redis_limits import RedisLimits
from budgateway.records import Secret, StoreNode, StoreSettings
from budgateway.redis.client import Store
from budgateway.redis.discovery import slot_of

pytestmark = [pytest.mark.integration, needs_redis]
LOOPS = ("uvloop",)

PATIENT_S = 2.0
CLI = shutil.which("redis-cli") or ""
needs_cli = pytest.mark.skipif(not CLI, reason="no redis-cli to make a cluster with")
SLOW = Demand("slow", Kind.RATE, limit=60, cost=1, burst=20, period_s=3600)
SLOTS = Demand("slots", Kind.CONCURRENCY, limit=5, cost=1)


@contextlib.asynccontextmanager
async def store_of(**settings: object) -> AsyncIterator[Store]:
    store = Store(StoreSettings(**{"timeout_s": PATIENT_S, **settings}))  # type: ignore[arg-type]
    store.open()
    try:
        yield store
    finally:
        await store.close()


async def decides(store: Store) -> int:
    """Let 30 ask for 20: how many got it."""
    limits = RedisLimits(store, namespace=store.settings.namespace, worker="w1")
    verdicts = await asyncio.gather(*(limits.decide([SLOW]) for _ in range(30)))
    limits.close()
    return sum(verdict is not None and verdict.refused_by < 0 for verdict in verdicts)


async def until_up(store: Store, within_s: float = 20) -> None:
    assert await store.ready(within_s), store.reason


async def test_a_unix_socket_and_a_database(tmp_path: Path) -> None:
    path = str(tmp_path / "r.sock")
    with redis_server(tmp_path / "redis", "--unixsocket", path) as server:
        async with store_of(path=path, database=3) as store:
            await until_up(store)
            assert await decides(store) == 20
        assert "db3:keys=" in server.say("INFO", "keyspace")


async def test_tls_with_an_authority_of_its_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.server()
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", certificate, "--tls-key-file", key)
    with redis_server(tmp_path / "redis", *options, "--tls-ca-cert-file", str(authority.ca_file)):
        ours = {"tls_cert_file": certificate, "tls_key_file": key}  # Redis asks for one unless told otherwise
        async with store_of(port=port, tls=True, tls_ca_file=str(authority.ca_file), **ours) as store:
            await until_up(store)
            assert await decides(store) == 20
        async with store_of(port=port, tls=True, **ours) as store:
            assert not await store.ready(1)
            assert "TLS: certificate verify failed" in store.reason


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Redis]:
    """A server with a user that has what docs/redis.md says and nothing else."""
    rules = (
        (Path(__file__).parents[3] / "docs" / "redis.md").read_text().split("ACL SETUSER gateway ")[1].split("\n```")[0]
    )
    with redis_server(tmp_path / "redis") as server:
        assert server.say("ACL", "SETUSER", "gateway", *rules.replace("\\\n", " ").split()) == "+OK\r\n"
        yield server


async def test_a_user_who_may_do_what_is_documented_and_no_more(guarded: Redis) -> None:
    who = {"port": guarded.port, "username": "gateway", "password": Secret("SECRET")}
    async with store_of(**who) as store:
        await until_up(store)
        assert await decides(store) == 20
        limits = RedisLimits(store, namespace="budgateway", worker="w2")
        assert await limits.decide([SLOTS]) is not None
        limits.close()
        assert "NOPERM" in repr(await asyncio.gather(store.call("SET", "other", "x"), return_exceptions=True))
    async with store_of(**{**who, "password": Secret("wrong")}) as store:
        assert not await store.ready(0.5)
        assert "WRONGPASS" in store.reason
        assert "wrong" not in store.reason.replace("WRONGPASS", "")


# ---------------------------------------------------------------- Sentinel


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Redis, Redis, list[Redis]]]:
    """A master, its replica and three Sentinels that know each other."""
    with contextlib.ExitStack() as stack:
        master = stack.enter_context(redis_server(tmp_path / "master", "--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(redis_server(tmp_path / "replica", "--replicaof", f"127.0.0.1 {master.port}"))
        sentinels = [started_sentinel(stack, tmp_path / f"sentinel{number}", master) for number in range(3)]
        while "master_link_status:up" not in replica.say("INFO", "replication") or not all(
            "slaves=1,sentinels=3" in sentinel.say("INFO", "sentinel") for sentinel in sentinels
        ):
            time.sleep(0.02)
        yield master, replica, sentinels


def started_sentinel(stack: contextlib.ExitStack, folder: Path, master: Redis) -> Redis:
    """Start a Sentinel that asks and reports ten times a second, and that does not mistake a busy machine for a clock
    that jumps: it would rest for 30 s."""
    folder.mkdir()
    (folder / "sentinel.conf").write_text(f"sentinel monitor mymaster 127.0.0.1 {master.port} 2\n")
    sentinel = Redis(folder, "--sentinel", command=str(folder / "sentinel.conf"))
    sentinel.start()
    stack.callback(sentinel.kill)
    periods = ("INFO-PERIOD", "PING-PERIOD", "ASK-PERIOD", "PUBLISH-PERIOD")
    times = {**dict.fromkeys(periods, "100"), "TILT-TRIGGER": "60000"}
    sentinel.say("SENTINEL", "DEBUG", *(word for pair in times.items() for word in pair))
    return sentinel


async def failed_over(sentinel: Redis, replica: Redis) -> None:
    """Have one Sentinel promote the replica, and wait until it has.

    On its own: with two left, each votes for itself half of the time, and they rest for seconds before the next election.
    """
    while str(replica.port) not in sentinel.say("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"):
        sentinel.say("SENTINEL", "FAILOVER", "mymaster")  # refused while it has not heard from the replica for 0.3 s
        await asyncio.sleep(0.02)


async def test_a_sentinel_says_where_the_master_is_and_where_it_went(watched: tuple[Redis, Redis, list[Redis]]) -> None:
    master, replica, sentinels = watched
    nobody = StoreNode("127.0.0.1", free_port())
    asked = (nobody, *(StoreNode("127.0.0.1", sentinel.port) for sentinel in sentinels))
    async with store_of(sentinels=asked) as store:
        await until_up(store)
        assert await decides(store) == 20
        sentinels[0].kill()  # the first that answers
        master.kill()
        while store.is_up:
            await asyncio.sleep(0.02)
        await failed_over(sentinels[1], replica)
        await until_up(store)
        assert await decides(store) <= 20
        assert replica.calls("eval") + replica.calls("evalsha") > 0


# ---------------------------------------------------------------- Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[Redis]]:
    """Three nodes that share the slots."""
    with contextlib.ExitStack() as stack:
        nodes = [
            stack.enter_context(
                redis_server(
                    tmp_path / f"node{number}", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
                    "--cluster-port", str(free_port()),
                )
            )
            for number in range(3)
        ]  # fmt: skip
        connection_count = [f"127.0.0.1:{node.port}" for node in nodes]
        made = subprocess.run(
            [CLI, "--cluster", "create", *connection_count, "--cluster-yes"],
            capture_output=True,
            text=True,
            check=False,
            timeout=40,
        )
        assert made.returncode == 0, made.stdout
        while not all("cluster_state:ok" in node.say("CLUSTER", "INFO") for node in nodes):
            time.sleep(0.02)
        yield nodes


def owner(nodes: list[Redis], key: str) -> Redis:
    """The node that has the key's slot."""
    return next(node for node in nodes if not node.say("GET", key).startswith("-MOVED"))


def test_slots_are_redis_own() -> None:
    # From the cluster specification, and CLUSTER KEYSLOT of a real node.
    assert slot_of("123456789") == 12739
    assert slot_of("rate_limit:{budgateway}:r:x") == slot_of("{budgateway}") == slot_of("budgateway")
    assert slot_of("{}x") != slot_of("x")


@needs_cli
async def test_a_cluster_and_a_slot_that_moves(cluster: list[Redis]) -> None:
    key = "rate_limit:{budgateway}:x"
    slot = str(slot_of(key))
    assert all(node.say("CLUSTER", "KEYSLOT", key) == f":{slot}\r\n" for node in cluster)
    first = owner(cluster, key)
    other = next(node for node in cluster if node is not first)
    gone = StoreNode("127.0.0.1", free_port())
    async with store_of(port=other.port, cluster=True, nodes=(gone,)) as store:
        await until_up(store)
        assert await decides(store) == 20
        assert first.calls("evalsha") + first.calls("eval") > 0
        # Its keys go where it goes, as operators move slots: key by key, then everybody is told.
        ids = {node.port: node.say("CLUSTER", "MYID").split("\r\n")[1] for node in cluster}
        other.say("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[first.port])
        first.say("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[other.port])
        keys = first.say("CLUSTER", "GETKEYSINSLOT", slot, "100").split("\r\n")[2::2]
        first.say("MIGRATE", "127.0.0.1", str(other.port), "", "0", "5000", "KEYS", *keys)
        for node in (other, first, *cluster):
            node.say("CLUSTER", "SETSLOT", slot, "NODE", ids[other.port])
        while (
            not store.is_up
            or owner(cluster, key) is not other
            or await decides(store) > 0
            or not other.calls("evalsha")
        ):
            await asyncio.sleep(0.02)
        assert await decides(store) == 0, "what was used up is used up there, too"
