"""Users come and go on the fast path: plans are for classes of principals, credentials are remembered beside them."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream, request_bytes
from integration.fast_path import CHAT, JSON, armed, fast_gateway, swept
from tokens import AUDIENCE, ISSUER, SECRET, jwk, own, signed
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.auth.credential_store import CredentialSet
from budgateway.auth.keys import digest_of, new_secret, start_of
from budgateway.native import MAX_CACHED_PLANS, RequestHead
from budgateway.records import (
    Allowance,
    ApiKey,
    Auth,
    Canary,
    Issuer,
    LimitRule,
    ModelPrice,
    Permission,
    Secret,
    Tenant,
)
from budgateway.server.proxies import Proxies

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

NEVER = 2**32
BODY = b'{"model":"demo"}'
GRANTS = (Permission("all"), Permission("mini", models=("mini",)))


def ask(token: str, body: bytes = BODY, *more: tuple[str, str], header: str = "Authorization") -> bytes:
    """A request with a credential."""
    value = f"Bearer {token}" if header == "Authorization" else token
    return request_bytes("a", "POST", CHAT, body, [*JSON, (header, value), *more])


def locked(**options: Any) -> dict[str, Any]:
    """A gateway whose route needs a credential."""
    return {
        "route": {"auth_required": True},
        "jwt_secret": Secret(SECRET),
        "auth": Auth(grants=GRANTS),
        **options,
    }


async def status(client: Downstream, request: bytes) -> int:
    await client.send(request)
    return (await client.answer()).status


async def test_users_never_seen_before_ride_on_the_plan_of_their_class(tmp_path: Path) -> None:
    """Each counts for itself, and is named in the access log."""
    rules = (LimitRule("few", ("user",), Allowance(requests_per_day=3, burst=3)),)
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked(limit_rules=rules)) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        assert await status(client, ask(own(sub="first", roles=["all"], exp=NEVER))) == 200
        before = native.served()
        for number in range(50):
            token = own(sub=f"u{number}", roles=["all"], tenant=f"t{number}", groups=["g"], exp=NEVER)
            assert await status(client, ask(token, header="x-api-key" if number % 2 else "Authorization")) == 200
        assert native.served() == before + 50
        lines = await gateway.lines(51)
        assert [line["principal"] for line in lines[1:]] == [f"jwt:own:u{number}" for number in range(50)]
        token = own(sub="u7", roles=["all"], exp=NEVER)
        assert [await status(client, ask(token)) for _ in range(3)] == [200, 200, 429]


async def test_another_class_does_not_ride_on_a_plan(tmp_path: Path) -> None:
    auth = Auth(grants=GRANTS, tenants=(Tenant("narrow", models=("mini",)),))
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked(auth=auth)) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        await armed(client, native, ask(own(sub="a", roles=["all"], exp=NEVER)))
        for claims in (
            {"roles": ["mini"]},
            {},
            {"roles": ["all"], "tenant": "narrow"},
            {"roles": ["all"], "models": ["x"]},
        ):
            before = native.served()
            assert await status(client, ask(own(sub="b", exp=NEVER, **claims))) == 403, claims
            assert native.served() == before
            await armed(client, native, ask(own(sub="a", roles=["all"], exp=NEVER)))


@pytest.mark.parametrize(
    "token",
    [
        own(sub="a", roles=["all"], exp=1),
        own(sub="a", roles=["all"], exp=NEVER)[:-4] + "AAAA",
        own("another secret of more than thirty-two bytes", sub="a", roles=["all"], exp=NEVER),
        own(sub="a", roles=["all"], exp=None),
        "a.b.c",
        "nobody",
    ],
    ids=["expired", "forged", "of another", "endless", "no token", "no key"],
)
async def test_who_is_not_known_never_rides(token: str, tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked()) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        known = ask(own(sub="a", roles=["all"], exp=NEVER))
        for _ in range(3):
            await armed(client, native, known)
            before = native.served()
            assert await status(client, ask(token)) == 401
            assert native.served() == before


async def test_a_key_that_was_revoked_rides_no_more_and_the_others_do(tmp_path: Path) -> None:
    secrets = [new_secret(), new_secret()]
    keys = [ApiKey(f"k{index}", digest_of(one), start_of(one), roles=("all",)) for index, one in enumerate(secrets)]
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked(auth=Auth(grants=GRANTS, keys_file="keys.json"))) as (
            gateway,
            native,
        ),
        Downstream(gateway.url) as client,
    ):
        gateway.plane.update_credentials(CredentialSet(api_keys=tuple(keys), number=1))
        for secret in secrets:
            await armed(client, native, ask(secret))
        gateway.plane.update_credentials(CredentialSet(api_keys=(keys[1],), number=2))
        await armed(client, native, ask(secrets[1]))
        assert await status(client, ask(secrets[0])) == 401
        await armed(client, native, ask(secrets[1]))


async def test_a_key_with_other_limits_is_of_another_class(tmp_path: Path) -> None:
    secret = new_secret()
    key = ApiKey("k", digest_of(secret), start_of(secret), roles=("all",))
    few = ApiKey("k", key.digest, key.start, roles=("all",), allowance=Allowance(requests_per_day=1, burst=1))
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked(auth=Auth(grants=GRANTS, keys_file="keys.json"))) as (
            gateway,
            native,
        ),
        Downstream(gateway.url) as client,
    ):
        gateway.plane.update_credentials(CredentialSet(api_keys=(key,), number=1))
        await armed(client, native, ask(secret))
        gateway.plane.update_credentials(CredentialSet(api_keys=(few,), number=2))
        assert [await status(client, ask(secret)) for _ in range(3)] == [200, 429, 429]


async def test_keys_of_an_issuer_that_were_replaced_verify_nobody(tmp_path: Path) -> None:
    """By the old key neither a remembered token rides nor a new one."""
    issuer = Issuer("corp", ISSUER, ("ES256",), jwks_url="https://login.example.com/keys", audience=(AUDIENCE,))
    sets = [{"keys": [jwk("ES256", f"kid{number}", number)]} for number in range(2)]

    def token(user: str, number: int) -> str:
        return signed("ES256", number, {"kid": f"kid{number}"}, sub=user, roles=["all"], exp=NEVER)

    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked(auth=Auth(grants=GRANTS, issuers=(issuer,)))) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        gateway.plane.update_credentials(CredentialSet(key_sets={"corp": sets[0]}, number=1))
        await armed(client, native, ask(token("ada", 0)))
        before = native.served()
        assert await status(client, ask(token("bob", 0))) == 200
        assert native.served() == before + 1
        gateway.plane.update_credentials(CredentialSet(key_sets={"corp": sets[1]}, number=2))
        await armed(client, native, ask(token("ada", 1)))
        for user in ("ada", "bob", "carl"):
            assert await status(client, ask(token(user, 0))) == 401


async def test_a_token_rides_until_it_expires(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked()) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        leeway_s = gateway.plane.snapshot.settings.auth.leeway_s
        ends = int(time.time()) + 2 - int(leeway_s)
        request = ask(own(sub="a", roles=["all"], exp=ends, iat=ends - 60))
        await armed(client, native, request)
        async with asyncio.timeout(20):
            while (seen := await status(client, request)) == 200:
                await asyncio.sleep(0.02)
        assert (seen, time.time() >= ends + leeway_s) == (401, True)


async def test_plans_of_more_models_than_fit_leave_one_by_one(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path) as (gateway, native),
        Downstream(gateway.url) as client,
    ):

        def request(number: int) -> bytes:
            return request_bytes("a", "POST", CHAT, json.dumps({"model": f"m{number}"}).encode(), JSON)

        await swept(gateway)  # the first sweep drops what was cached before
        for number in range(MAX_CACHED_PLANS + 50):
            assert await status(client, request(number)) == 200
            if number % 100 == 0:
                await armed(client, native, request(0))
        before = native.served()
        for _ in range(3):
            assert await status(client, request(0)) == 200
        assert native.served() == before + 3
        place = gateway.plane.snapshot.routes.compiled_routes[0].place
        dialect = 1  # the first of wire.dialects
        cached = sum(
            native.has_plan(place, 0, dialect, b"", 0, f"m{number}") for number in range(MAX_CACHED_PLANS + 50)
        )
        assert cached == MAX_CACHED_PLANS


async def test_an_exchange_that_is_given_up_keeps_its_principal(tmp_path: Path) -> None:
    """It was verified natively, and Python has never seen it."""
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, **locked()) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        await armed(client, native, ask(own(sub="first", roles=["all"], exp=NEVER)))
        count = native.served()
        long = faults.chat_bytes("x" * 40_000)
        upstream.script(lambda peer, _: peer.send(long))
        assert await status(client, ask(own(sub="second", roles=["all"], tenant="t", exp=NEVER))) == 200
        assert native.served() == count
        last = (await gateway.lines(count + 2))[-1]
        assert (last["principal"], last["status"]) == ("jwt:own:second", 200)


async def test_another_dialect_does_not_ride_on_a_plan(tmp_path: Path) -> None:
    """One route, one model: what the upstream does not speak is translated, whoever asked before."""
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        await swept(gateway)
        messages = json.dumps(
            {"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        ).encode()
        for _ in range(3):
            await armed(client, native, request_bytes("a", "POST", CHAT, BODY, JSON))
            await client.send(request_bytes("a", "POST", "/v1/messages", messages, JSON))
            answer = await client.answer()
            assert (answer.status, answer.json()["type"]) == (200, "message")
            assert upstream.requests[-1].target == CHAT


async def test_a_path_without_a_dialect_does_not_ride_on_another_ones_plan(tmp_path: Path) -> None:
    """Behind several upstreams, requests about stored objects must find the one that holds them."""
    async with (
        FaultyUpstream(faults.raw(faults.json_bytes({"id": "batch_1"}))) as one,
        FaultyUpstream(faults.raw(faults.json_bytes({"id": "batch_2"}))) as two,
        fast_gateway(one, tmp_path, also=[two.url]) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        await swept(gateway)
        await armed(client, native, request_bytes("a", "POST", "/v1/embeddings", BODY, JSON))
        for path in ("/v1/batches", "/v1/batches/batch_1/cancel"):
            await armed(client, native, request_bytes("a", "POST", "/v1/embeddings", BODY, JSON))
            before = native.served()
            for _ in range(3):
                assert await status(client, request_bytes("a", "POST", path, BODY, JSON)) == 200
            assert native.served() == before


# ---------------------------------------------------------------- everyday features


async def test_a_lease_rides_and_later_requests_wait_their_turn(tmp_path: Path) -> None:
    """One slot, eight clients at once: at most one is with the upstream, and all are served."""
    rules = (LimitRule("one", (), Allowance(concurrency=1)),)
    most = now = 0

    async def counted(peer: Any, _: Any) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        await peer.send(faults.chat_bytes())

    async with (
        FaultyUpstream(counted) as upstream,
        fast_gateway(upstream, tmp_path, limit_rules=rules) as (gateway, native),
    ):
        request = request_bytes("a", "POST", CHAT, BODY, JSON)

        async def client(_: int) -> list[int]:
            async with Downstream(gateway.url) as one:
                return [await status(one, request) for _ in range(30)]

        seen = await asyncio.gather(*map(client, range(8)))
        assert seen == [[200] * 30] * 8
        assert most == 1
        async with Downstream(gateway.url) as one:
            await armed(one, native, request)
        await gateway.at_rest()


async def test_a_budget_is_spent_on_the_fast_path(tmp_path: Path) -> None:
    rules = (LimitRule("purse", ("user",), Allowance(budget_usd=0.001)),)
    prices = (ModelPrice("demo", 10.0, 10.0, 10.0),)
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, limit_rules=rules, prices=prices) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        request = request_bytes("a", "POST", CHAT, b'{"model":"demo","max_tokens":1}', JSON)
        seen = []
        while not seen or seen[-1] == 200:
            seen.append(await status(client, request))
        assert seen[-1] == 429
        assert native.served() >= len(seen) - 3 > 0


async def test_a_connection_for_each_request_rides_and_is_closed(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path) as (gateway, native),
    ):
        async with Downstream(gateway.url) as client:
            await armed(client, native, request_bytes("a", "POST", CHAT, BODY, JSON))
        before = native.served()
        for _ in range(5):
            async with Downstream(gateway.url) as client:
                await client.send(request_bytes("a", "POST", CHAT, BODY, [*JSON, ("Connection", "close")]))
                answer = await client.answer()
                assert (answer.status, answer.header("connection")) == (200, "close")
                await client.closed()
        assert native.served() == before + 5
        await gateway.until(lambda: len(gateway.plane.server_state.connections) == 0, "no connection")


async def test_a_split_rides_and_keeps_its_shares(tmp_path: Path) -> None:
    """Three to one, in every few requests; the canary's header chooses it, and a pin stays where it is."""
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        FaultyUpstream(faults.chat()) as other,
        FaultyUpstream(faults.chat()) as canary,
        fast_gateway(
            upstream,
            tmp_path,
            beside={"/other": other.url, "/canary": canary.url},
            route={
                "split": (("p", 3), ("/other", 1)),
                "canary": Canary("/canary", 0.0, "x-canary"),
                "pin_by": "header:x-session",
            },
        ) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        plain = request_bytes("a", "POST", CHAT, BODY, JSON)
        chosen = request_bytes("a", "POST", CHAT, BODY, [*JSON, ("X-Canary", "yes")])
        await swept(gateway)
        for _ in range(8):
            await armed(client, native, plain)
            await armed(client, native, chosen)
        before, counts = native.served(), [len(one.requests) for one in (upstream, other, canary)]
        for _ in range(80):
            assert await status(client, plain) == 200
        for _ in range(20):
            assert await status(client, chosen) == 200
        assert native.served() == before + 100
        added = [len(one.requests) - count for one, count in zip((upstream, other, canary), counts, strict=True)]
        assert abs(added[0] - 60) <= 3, added
        assert (sum(added), added[2]) == (100, 20)
        went = set()
        for session in map(str, range(24)):
            counts = [len(one.requests) for one in (upstream, other, canary)]
            pinned = request_bytes("a", "POST", CHAT, BODY, [*JSON, ("X-Session", session)])
            for _ in range(4):
                assert await status(client, pinned) == 200
            added = [len(one.requests) - count for one, count in zip((upstream, other, canary), counts, strict=True)]
            assert sorted(added) == [0, 0, 4], session
            went.add(tuple(added))
        assert went == {(4, 0, 0), (0, 4, 0)}


async def test_a_destination_that_is_out_is_skipped(tmp_path: Path) -> None:
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        FaultyUpstream(faults.chat()) as other,
        fast_gateway(upstream, tmp_path, beside={"/other": other.url}, route={"split": (("p", 1), ("/other", 1))}) as (
            gateway,
            native,
        ),
        Downstream(gateway.url) as client,
    ):
        plain = request_bytes("a", "POST", CHAT, BODY, JSON)
        await swept(gateway)
        for _ in range(6):
            await armed(client, native, plain)
        gateway.plane.snapshot.routes.compiled_routes[0].destinations[1].balancer.selector.drain(0, True)
        count = len(other.requests)
        for _ in range(20):
            assert await status(client, plain) == 200
        assert len(other.requests) == count
        await gateway.at_rest()


async def test_a_limit_in_flight_rides_and_its_queue_is_served(tmp_path: Path) -> None:
    """Two slots, eight clients at once: never more than two are with the upstream, and all are served."""
    most = now = 0

    async def counted(peer: Any, _: Any) -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        for _ in range(30):  # turns of the loop, so that others can come
            await asyncio.sleep(0)
        now -= 1
        await peer.send(faults.chat_bytes())

    async with (
        FaultyUpstream(counted) as upstream,
        fast_gateway(upstream, tmp_path, upstream={"max_in_flight": 2}) as (gateway, native),
    ):
        request = request_bytes("a", "POST", CHAT, BODY, JSON)

        async def client(_: int) -> list[int]:
            async with Downstream(gateway.url) as one:
                return [await status(one, request) for _ in range(30)]

        assert await asyncio.gather(*map(client, range(8))) == [[200] * 30] * 8
        assert most == 2
        async with Downstream(gateway.url) as one:
            await armed(one, native, request)
        await gateway.at_rest()
        assert gateway.slots == 0


def forwarded(lot: random.Random) -> list[tuple[str, str]]:
    """Lines of `X-Forwarded-For` as proxies and attackers write them."""
    hops = (
        "203.0.113.7", "10.1.2.3", "127.0.0.1", "198.51.100.9:4711", "[2001:db8:1:2::9]:443", "2001:db8::1", "fd00::7",
        "::ffff:10.0.0.9", "::ffff:192.0.2.1", "unknown", "_hidden", "", "1.2.3", "01.2.3.4", "1.2.3.4.5", "[::1", "[1.2.3.4]",
        "fe80::1%eth0", "::1.2.3.4", "2001:DB8:0:0:1:0:0:1", "1:2:3", "999.1.1.1", "::", "1.2.3.4 ", "0x7f.1", "a:b",
    )  # fmt: skip
    written = []
    for _ in range(lot.choice((1, 1, 1, 2, 3))):
        commas = lot.choice((",", ", ", " ,\t"))
        written.append(("X-Forwarded-For", commas.join(lot.choice(hops) for _ in range(lot.choice((1, 1, 2, 3, 40))))))
    return written


async def test_the_client_behind_trusted_proxies_is_the_one_that_python_finds(tmp_path: Path) -> None:
    trusted = ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8", "::ffff:198.51.100.0/120")
    oracle, lot = Proxies(trusted), random.Random(18)
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, trusted_proxies=trusted) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        await armed(client, native, request_bytes("a", "POST", CHAT, BODY, JSON))
        first = native.served() + 1
        expected = []
        for _ in range(400):
            request = request_bytes("a", "POST", CHAT, BODY, [*JSON, *forwarded(lot)])
            head = RequestHead.parse(request)
            assert head is not None
            expected.append(oracle.client("127.0.0.1", head))
            assert await status(client, request) == 200
        lines = await gateway.lines(first + 400)
        assert [line["client"] for line in lines[-400:]] == expected
        assert native.served() == first - 1 + 400


async def test_limits_by_address_count_the_client_that_a_trusted_proxy_names(tmp_path: Path) -> None:
    rules = (LimitRule("day", ("address",), Allowance(requests_per_day=3, burst=3)),)
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        fast_gateway(upstream, tmp_path, limit_rules=rules, trusted_proxies=("127.0.0.1/32",)) as (gateway, native),
        Downstream(gateway.url) as client,
    ):
        for address in ("10.0.0.1", "10.0.0.2", "2001:db8::1"):
            said = [*JSON, ("X-Forwarded-For", address)]
            seen = [(await client.ask("POST", CHAT, BODY, said)).status for _ in range(4)]
            assert seen == [200, 200, 200, 429]
        # An IPv6 client counts as its network.
        assert (await client.ask("POST", CHAT, BODY, [*JSON, ("X-Forwarded-For", "2001:db8::2")])).status == 429
        assert native.served() >= 6
