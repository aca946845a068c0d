"""API keys in Redis: gateways share them, and go on with those they have when it is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from downstream import Downstream
from integration.operated import SECRET, operated
from integration.redises import Redis, needs_redis, redis_server
from tokens import own
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.credentials import api_keys
from budgateway.credentials.keystore import RedisKeys
from budgateway.errors import StoreUnavailable
from budgateway.records import StoreSettings

pytestmark = [pytest.mark.integration, needs_redis]

EXTRA = '[auth]\njwt_secret = "env:JWT_SECRET"\nkey_store = "redis"\n[redis]\nurl = "redis://127.0.0.1:{port}"\n'
NOW = 1_800_000_000.0


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[Redis]:
    context = redis_server(tmp_path / "redis")
    server = await asyncio.to_thread(context.__enter__)
    yield server
    await asyncio.to_thread(context.__exit__, None, None, None)


async def status(url: str, secret: str) -> int:
    async with Downstream(url) as client:
        return (await client.ask("GET", "/v1/x", headers=[("x-api-key", secret)])).status


async def until(url: str, secret: str, wanted: int) -> None:
    async with asyncio.timeout(30):
        while {await status(url, secret) for _ in range(4)} != {wanted}:
            await asyncio.sleep(0.05)


async def call(url: str, method: str, path: str, document: object = None) -> tuple[int, dict[str, str]]:
    async with Downstream(url) as client:
        body = None if document is None else json.dumps(document).encode()
        admin = ("authorization", f"Bearer {own(SECRET, roles=['admin'])}")
        answer = await client.ask(method, f"/admin/keys{path}", body, [admin, ("content-type", "application/json")])
        return answer.status, answer.json()


async def test_two_gateways_share_keys_and_outlive_their_redis(redis: Redis) -> None:
    extra = EXTRA.format(port=redis.port)
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        operated([upstream.url], extra=extra, route={"auth_required": True}, workers=1) as one,
        operated([upstream.url], extra=extra, route={"auth_required": True}, workers=1) as two,
    ):
        made, document = await call(one.url, "POST", "", {"name": "k"})
        secret = document["secret"]
        assert (made, await status(one.url, secret)) == (201, 200)
        await until(two.url, secret, 200)
        kept = await asyncio.to_thread(redis.say, "HGETALL", "api_key:{budgateway}")
        assert "digest" in kept
        assert secret not in kept
        assert secret[8:] not in kept
        assert (await call(two.url, "POST", "/k/disable"))[0] == 200
        assert await status(two.url, secret) == 401
        await until(one.url, secret, 401)
        assert (await one.command("keys", "enable", "k", "-c", str(one.folder)))[0] == 0
        await until(two.url, secret, 200)
        await until(one.url, secret, 200)
        redis.kill()
        for _ in range(5):
            assert {await status(gateway.url, secret) for gateway in (one, two)} == {200}
        refused, document = await call(one.url, "POST", "", {"name": "other"})
        assert refused == 503
        assert "redis" in str(document)


async def test_a_gateway_without_its_redis_does_not_know(redis: Redis) -> None:
    settings = StoreSettings(port=redis.port)
    keys = RedisKeys(settings)
    made, _ = await keys.change(partial(api_keys.create, name="k", wishes={}, now=NOW))
    await keys.close()
    await asyncio.to_thread(redis.say, "CONFIG", "SET", "save", "")
    data = await asyncio.to_thread(redis.say, "HGET", "api_key:{budgateway}", "k")
    redis.kill()
    extra = EXTRA.format(port=redis.port)
    async with FaultyUpstream(faults.chat()) as upstream:
        async with operated([upstream.url], extra=extra, route={"auth_required": True}, workers=1) as gateway:
            assert await status(gateway.url, made.secret) == 503
            async with Downstream(gateway.url) as client:
                token = ("authorization", f"Bearer {own(SECRET)}")
                assert (await client.ask("GET", "/v1/x", headers=[token])).status == 200
            await asyncio.to_thread(redis.start)
            await asyncio.to_thread(redis.say, "HSET", "api_key:{budgateway}", "k", data.split("\r\n")[1])
            await asyncio.to_thread(redis.say, "SET", "api_key:{budgateway}:version", "7")
            await until(gateway.url, made.secret, 200)


async def test_changes_at_the_same_time_lose_none(redis: Redis) -> None:
    settings = StoreSettings(port=redis.port)
    stores = [RedisKeys(settings) for _ in range(4)]
    try:
        await asyncio.gather(
            *(
                stores[number % 4].change(partial(api_keys.create, name=f"k{number:02}", wishes={}, now=NOW))
                for number in range(8)
            )
        )
        found = await stores[0].read()
        assert [key.name for key in found] == [f"k{number:02}" for number in range(8)]
        await stores[1].change(partial(api_keys.delete, name="k03"))
        assert "k03" not in [key.name for key in await stores[2].read()]
        version = await stores[0].version()
        with pytest.raises(api_keys.KeyExists):
            await stores[0].change(partial(api_keys.create, name="k04", wishes={}, now=NOW))
        assert await stores[0].version() == version
        redis.kill()
        with pytest.raises(StoreUnavailable):
            await stores[0].read()
    finally:
        for store in stores:
            await store.close()
