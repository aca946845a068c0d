"""The resolver: what it remembers, whom it makes wait, and what it says when nobody answers."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiodns.error import ARES_ENOTFOUND, ARES_ESERVFAIL, ARES_ETIMEOUT, DNSError

from budgateway.transport import resolve
from budgateway.transport.resolve import Address, Addresses, Resolver, Unresolved, literal

FOUR = socket.AF_INET
SIX = socket.AF_INET6
ONE: Address = (FOUR, "192.0.2.1", 0)
TWO: Address = (FOUR, "192.0.2.2", 0)
THREE: Address = (SIX, "2001:db8::3", 0)


class Names:
    """Answers of a resolver by name, and a clock. None is silence, until `answer`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answers: dict[str, Addresses | Exception | None] = {}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.resolver = Resolver(self.ask, lambda: self.now)

    async def ask(self, name: str) -> Addresses:
        self.asked.append(name)
        if self.answers[name] is None:
            await self.gate.wait()
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return answer

    async def find(self, name: str) -> list[Address]:
        return await self.resolver.addresses(name)

    async def fails(self, name: str) -> bool:
        """True when nobody answered; otherwise the name has no address."""
        with pytest.raises(Unresolved) as failed:
            await self.find(name)
        return failed.value.silent


@pytest.fixture
async def names() -> Names:
    return Names()


async def test_an_answer_is_remembered_within_bounds(names: Names) -> None:
    names.answers = {"hosts": ((ONE,), 0.0), "short": ((ONE,), 5.0), "long": ((ONE,), 86_400.0)}
    for name, kept_s in (("hosts", 1.0), ("short", 5.0), ("long", 30.0)):
        names.asked.clear()
        assert await names.find(name) == [ONE]
        names.now += kept_s - 0.1
        assert await names.find(name) == [ONE]
        assert names.asked == [name]
        names.now += 0.2
        assert await names.find(name) == [ONE]
        assert names.asked == [name, name]


async def test_one_question_serves_all_who_wait_and_holds_nobody_else_up(names: Names) -> None:
    names.answers = {"lost": None, "well": ((TWO,), 60.0)}
    waiting = [asyncio.create_task(names.find("lost")) for _ in range(24)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert await names.find("well") == [TWO]
    assert names.asked == ["lost", "well"]
    waiting.pop().cancel()  # nor does who gives up
    names.answers["lost"] = ((ONE,), 60.0)
    names.gate.set()
    assert await asyncio.gather(*waiting) == [[ONE]] * 23
    assert names.asked == ["lost", "well"]


async def test_a_name_that_is_none_is_the_names_trouble(names: Names) -> None:
    names.answers = {"none": DNSError(ARES_ENOTFOUND, "Domain name not found")}
    assert not await names.fails("none")
    names.now += 0.9
    assert not await names.fails("none")
    assert names.asked == ["none"]
    names.now += 0.2
    names.answers["none"] = ((ONE,), 0.0)
    assert await names.find("none") == [ONE]


@pytest.mark.parametrize("code", [ARES_ETIMEOUT, ARES_ESERVFAIL, 11], ids=["timeout", "servfail", "refused"])
async def test_without_a_resolver_the_trouble_is_the_gateways(names: Names, code: int) -> None:
    names.answers = {"a": DNSError(code, "")}
    assert await names.fails("a")


async def test_while_others_are_answered_it_is_the_names_again(names: Names) -> None:
    names.answers = {"lost": None, "well": ((TWO,), 60.0)}
    failing = asyncio.create_task(names.fails("lost"))
    await asyncio.sleep(0)
    names.now += 1
    assert names.resolver.is_silent("lost")
    await names.find("well")
    assert not names.resolver.is_silent("lost")
    names.answers["lost"] = DNSError(ARES_ETIMEOUT, "Timeout")
    names.gate.set()
    assert not await failing


async def test_former_addresses_serve_while_nobody_answers(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "MAX_WAIT_S", 0.01)
    names.answers = {"a": ((ONE,), 5.0)}
    await names.find("a")
    names.now += 60
    names.answers["a"] = None
    assert await names.find("a") == [ONE]  # and the question is still out
    names.answers["a"] = DNSError(ARES_ESERVFAIL, "")
    names.gate.set()
    names.now += 60
    assert await names.find("a") == [ONE]
    names.now += 3600
    assert await names.fails("a")
    names.now += 2
    # A server that says that there is no such name is believed.
    names.answers["a"] = ((TWO,), 5.0)
    assert await names.find("a") == [TWO]
    names.now += 60
    names.answers["a"] = DNSError(ARES_ENOTFOUND, "")
    assert not await names.fails("a")


async def test_families_alternate_and_machines_take_turns(names: Names) -> None:
    names.answers = {"a": ((ONE, TWO, THREE), 20.0)}
    assert await names.find("a") == [ONE, THREE, TWO]
    assert await names.find("a") == [TWO, THREE, ONE]


async def test_who_did_not_connect_comes_last_until_asked_anew(names: Names) -> None:
    names.answers = {"a": ((ONE, THREE, TWO), 20.0)}
    tried = await names.find("a")
    assert tried[0] == ONE
    names.resolver.chosen("a", TWO, tried)
    assert await names.find("a") == [TWO, ONE, THREE]
    names.now += 21
    assert set((await names.find("a"))[:2]) != {TWO}


async def test_a_question_ends_with_its_asker(names: Names) -> None:
    names.answers = {"lost": None}
    asking = asyncio.create_task(names.find("lost"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await names.resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_the_hosts_file_is_honoured() -> None:
    resolver = Resolver()
    try:
        found = await resolver.addresses("localhost")
        assert {text for _, text, _ in found} <= {"127.0.0.1", "::1"}
        assert found
        with pytest.raises(Unresolved):
            await resolver.addresses("a" * 70 + ".example")
    finally:
        await resolver.close()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", (FOUR, "127.0.0.1", 0)),
        ("::1", (SIX, "::1", 0)),
        ("fe80::1%lo", (SIX, "fe80::1", socket.if_nametoindex("lo"))),
        ("fe80::1%nothing", (SIX, "fe80::1", 0)),
        ("localhost", None),
        ("127.1", None),
        ("", None),
    ],
)
def test_an_address_is_no_name(host: str, address: Address | None) -> None:
    assert literal(host) == address
