"""Tokens through a real gateway: every attack is a 401 and never a 500, every good one gets in (RELIABILITY S3)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from downstream import Downstream
from integration.inside import Inside, inside
from token_attacks import ATTACKS, GOOD, HS256, ISSUERS, by_partner, own_claims
from tokens import SECRET, forged, own, signed
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.records import Auth, Secret

pytestmark = pytest.mark.integration

LOOPS = ("uvloop",)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Inside]:
    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(
            upstream.url, tmp_path, route={"auth_required": True}, jwt_secret=Secret(SECRET), auth=Auth(issuers=ISSUERS)
        ) as gateway:
            yield gateway


async def test_every_attack_is_refused_and_every_good_token_is_not(gateway: Inside) -> None:
    found: dict[str, int] = {}
    async with Downstream(gateway.url) as client:
        for name, token in ATTACKS.items():
            for _ in range(2):  # what is remembered must not let it in the second time
                answer = await client.ask("GET", "/v1/x", headers=[("authorization", f"Bearer {token}")])
                found[name] = answer.status
                if answer.status == 401:
                    message = answer.json()["error"]["message"]
                    assert message == "the credential is not valid", name
        assert {name: status for name, status in found.items() if status != 401} == {}
        for name, make in GOOD.items():
            assert (await client.ask("GET", "/v1/x", headers=[("authorization", f"Bearer {make()}")])).status == 200, (
                name
            )
    assert len(ATTACKS) > 90
    await gateway.at_rest()


@pytest.mark.parametrize("line", ["", "Bearer", "Bearer ", "bearer", "Basic YTpi", "Token x", "Digest x", "Bearer\tx"])
async def test_what_is_no_bearer_token_is_no_credential(gateway: Inside, line: str) -> None:
    async with Downstream(gateway.url) as client:
        answer = await client.ask("GET", "/v1/x", headers=[("authorization", line)])
        assert answer.status == 401
        assert answer.header("www-authenticate") == 'Bearer realm="budgateway"'


async def test_a_token_may_come_as_any_of_the_three_headers(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        for header in (
            ("authorization", f"Bearer {own()}"), ("authorization", f"bearer {own()}"), ("authorization", f"BEARER  {own()}"),
            ("x-api-key", own()), ("x-goog-api-key", own()), ("x-api-key", f"Bearer {own()}"),
        ):  # fmt: skip
            assert (await client.ask("GET", "/v1/x", headers=[header])).status == 200, header
        # Another scheme is somebody else's: a proxy's in front of us.
        both = [("authorization", "Basic YTpi"), ("x-api-key", own())]
        assert (await client.ask("GET", "/v1/x", headers=both)).status == 200
        # Of two the bearer token counts, and a bad one is not made good by what stands beside it.
        both = [("authorization", "Bearer x.y.z"), ("x-api-key", own())]
        assert (await client.ask("GET", "/v1/x", headers=both)).status == 401


async def test_a_token_longer_than_a_line_of_a_head_may_be_is_no_head(gateway: Inside) -> None:
    async with Downstream(gateway.url) as client:
        token = forged(HS256, own_claims(x="y" * 6200))
        assert (await client.ask("GET", "/v1/x", headers=[("x-api-key", token)])).status == 431


async def test_a_remembered_token_ends_with_its_time(gateway: Inside) -> None:
    token = own(exp=int(time.time()) - 28)  # two more seconds, by the skew
    async with Downstream(gateway.url) as client:
        headers = [("authorization", f"Bearer {token}")]
        assert (await client.ask("GET", "/v1/x", headers=headers)).status == 200
        deadline = time.time() + 10
        while (status := (await client.ask("GET", "/v1/x", headers=headers)).status) == 200:
            assert time.time() < deadline
        assert status == 401


async def test_limits_tell_people_keys_and_addresses_apart(tmp_path: Path) -> None:
    from budgateway.records import RateLimit

    async with FaultyUpstream(faults.chat()) as upstream:
        async with inside(
            upstream.url, tmp_path, jwt_secret=Secret(SECRET), auth=Auth(issuers=ISSUERS), rate_limit=RateLimit(1, 1)
        ) as gateway, Downstream(gateway.url) as client:  # fmt: skip
            for token in (
                None,
                own(sub="127.0.0.1"),
                own(sub="key:k"),
                by_partner(sub="127.0.0.1"),
                signed(sub="127.0.0.1"),
            ):
                headers = [] if token is None else [("authorization", f"Bearer {token}")]
                assert (await client.ask("GET", "/v1/x", headers=headers)).status == 200
                assert (await client.ask("GET", "/v1/x", headers=headers)).status == 429
