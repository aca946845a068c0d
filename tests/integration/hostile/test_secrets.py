"""Thirty secrets planted, every error path walked at DEBUG, and none of them found anywhere (RELIABILITY S5)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from downstream import Downstream
from integration.operated import operated
from tokens import AUDIENCE, own, signed
from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream, Peer
from upstreams.wire import Received, head

pytestmark = pytest.mark.integration

MARK = "planted"
JSON = ("content-type", "application/json")
CHAT = "/v1/chat/completions"


class Planter:
    """Makes secrets, each another, and remembers them."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.secrets: dict[str, str] = {}

    def plant(self, where: str) -> str:
        """A secret of 44 characters that says nothing of where it is."""
        secret = f"{MARK}{next(self._numbers):02}Zq" + os.urandom(17).hex()
        self.secrets[where] = secret
        return secret

    def found_in(self, text: str) -> list[str]:
        """The places whose secret, or its better half, is in a text."""
        return [where for where, secret in self.secrets.items() if secret in text or secret[-30:] in text]


def upstream_of(planter: Planter) -> Answer:
    """An upstream that fails as its request's path says, and has secrets of its own in headers."""
    leaks = [("set-cookie", planter.plant("upstream's cookie")), ("openai-organization", planter.plant("organisation"))]
    chat = head(200, [JSON, ("content-length", "2"), *leaks]) + b"{}"
    answers = {
        "/v1/good": faults.raw(chat), "/v1/garbage": faults.garbage(), "/v1/cut": faults.cut(chat, at=30),
        "/v1/reset": faults.cut(chat, at=30, reset=True), "/v1/slow": faults.silent(), "/v1/bomb": faults.header_bomb(),
        "/v1/500": faults.status(500), "/v1/429": faults.status(429), "/v1/stream": faults.cut(faults.stream_bytes(), at=200),
    }  # fmt: skip

    async def answer(peer: Peer, request: Received) -> None:
        await answers.get(request.target.partition("?")[0], faults.status(404))(peer, request)

    return answer


async def test_thirty_planted_secrets_are_found_nowhere(tmp_path: Path) -> None:
    planter = Planter()
    plant = planter.plant
    env = {
        "JWT_SECRET": plant("JWT_SECRET"),
        "ISSUER_SECRET": plant("issuer's secret"),
        "UPSTREAM_KEY": plant("upstream's key"),
        "UPSTREAM_HEADER": plant("upstream's header"),
        "LATER_KEY": plant("key of a configuration that is refused"),
        "REDIS_URL": f"redis://:{plant('password of redis')}@127.0.0.1:1/0",
        "LITERAL": plant("a secret written out"),
    }
    file_secret = tmp_path / "secret"
    file_secret.write_text(plant("secret in a file"))
    extra = (
        '[auth]\njwt_secret = "env:JWT_SECRET"\nkeys_file = "keys.json"\n'
        '[[auth.issuers]]\nissuer = "https://partner"\naudience = "gw"\nsecret = "env:ISSUER_SECRET"\n'
        f'[[auth.issuers]]\nissuer = "http://127.0.0.1:1"\naudience = "{AUDIENCE}"\ndiscovery = true\n'
        '[[auth.roles]]\nname = "user"\nmodels = ["demo"]\n[redis]\n'
    )
    provider = {
        "api_key": "env:UPSTREAM_KEY",
        "headers": {"x-tenant-key": "env:UPSTREAM_HEADER", "x-file-secret": f"file:{file_secret}"},
    }
    route = {"auth_required": True, "timeout": 0.5}
    settings = {"log_level": "DEBUG", "access_log": "stdout", "max_body_size": 4096, "workers": 1}
    seen: list[str] = []

    async with FaultyUpstream(upstream_of(planter)) as upstream:
        urls = [upstream.url]
        async with operated(urls, extra=extra, provider=provider, route=route, settings=settings, env=env) as gateway:
            secret = env["JWT_SECRET"]
            good = ("authorization", f"Bearer {own(secret, roles=['user'])}")
            admin = ("authorization", f"Bearer {own(secret, roles=['admin'])}")

            async def ask(method: str, path: str, *headers: tuple[str, str], body: bytes | None = None) -> Any:
                try:
                    async with Downstream(gateway.url) as client:
                        answer = await client.ask(method, path, body, headers)
                        seen.append(repr(answer.headers) + answer.body.decode("latin-1"))
                        return answer
                except (ConnectionError, AssertionError) as error:
                    seen.append(str(error) if not isinstance(error, AssertionError) else "")
                    return None

            async def raw(data: bytes) -> None:
                async with Downstream(gateway.url) as client:
                    await client.send(data)
                    try:
                        async with asyncio.timeout(3):
                            seen.append(repr((await client.answer()).body))
                    except (ConnectionError, TimeoutError):
                        seen.append(client.bytes_read.decode("latin-1"))

            # credentials that are none, in every header
            for name in ("authorization", "x-api-key", "x-goog-api-key", "proxy-authorization", "cookie", "api-key"):
                await ask("POST", CHAT, (name, f"Bearer {plant(name)}"), JSON, body=b'{"model":"demo"}')
            await ask("GET", "/v1/good", ("authorization", f"Basic {plant('basic')}"))
            await ask("GET", "/v1/good", ("x-api-key", "bg-" + plant("a key that nobody made")))
            for token in (
                own(plant("a foreign signing secret")), signed(iss="http://127.0.0.1:1", header={"kid": plant("kid")}),
                own(secret, exp=1, note=plant("claim of an expired token")), own(secret, sub="a\n" + plant("a bad subject")),
                "a." + plant("a broken token") + ".c",
            ):  # fmt: skip
                if len(signature := token.rpartition(".")[2]) > 30:
                    planter.secrets[f"a token's signature {signature[:5]}"] = signature
                assert (await ask("GET", "/v1/good", ("authorization", f"Bearer {token}"))).status in (401, 503)
            # what is wrong with requests
            hidden = json.dumps({"model": "demo", "messages": [{"content": plant("prompt")}]}).encode()
            for body in (hidden, hidden[:-1], hidden.replace(b"demo", b"other"), hidden + b" " * 5000):
                await ask("POST", CHAT, good, JSON, body=body)
            await ask("GET", f"/v1/good?key={plant('query')}", good)
            await ask("POST", "/admin/nothing", admin)
            await ask("GET", "/nowhere", good)
            await ask("PUT", "/metrics", good)
            await raw(
                b"GET /v1/good HTTP/1.1\r\nhost: x\r\nx-api-key: "
                + plant("malformed head").encode()
                + b"\r\nbad header\r\n\r\n"
            )
            await raw(
                b"GET / HTTP/1.1\r\nx-api-key: " + plant("huge head").encode() + b"\r\nx: " + b"y" * 9000 + b"\r\n\r\n"
            )
            await raw(b"\x16\x03\x01" + plant("no HTTP").encode() + b"\r\n\r\n")
            # what goes wrong upstream
            for path in ("good", "garbage", "cut", "reset", "slow", "bomb", "500", "429", "stream", "none"):
                await ask("GET", f"/v1/{path}", good, ("x-secret", plant(f"client's header to {path}")))
            # operating
            made = (await ask("POST", "/admin/keys", admin, JSON, body=b'{"name":"k","roles":["user"]}')).json()
            seen.pop()  # the one answer that may show it
            planter.secrets["an API key"] = made["secret"]
            assert (await ask("GET", "/v1/good", ("x-api-key", made["secret"]))).status == 200
            for path in ("keys", "config", "routes", "stats", "providers/health"):
                await ask("GET", f"/admin/{path}", admin)
            for bad in (
                {**provider, "headers": {"authorization": env["LITERAL"]}}, {**provider, "api_key": env["LITERAL"]},
                {**provider, "api_key": "env:NOT_SET"}, {**provider, "nope": env["LITERAL"]},
            ):  # fmt: skip
                gateway.configure(urls, provider=bad)
                answer = await ask("POST", "/admin/reload-config", admin)
                seen.append((await gateway.command("check", "-c", str(gateway.folder)))[1])
                assert answer.status == 422
            gateway.configure(urls)
            assert (await ask("POST", "/admin/reload-config", admin)).status == 200
            await ask("GET", "/metrics", admin)
            for words in (
                ("keys", "list"),
                ("routes",),
                ("check",),
                ("check-access", "GET", "/v1/x", "--key", made["secret"]),
            ):
                seen.append((await gateway.command(*words, "-c", str(gateway.folder)))[1])
            (pid,) = await gateway.pids()
            seen.extend(Path(f"/proc/{number}/cmdline").read_text() for number in (pid, gateway.server.process.pid))
            seen.extend(file.read_text() for file in gateway.folder.parent.joinpath("run").rglob("*.json"))
            os.kill(pid, signal.SIGABRT)
            await gateway.until(lambda stats: any(worker["restarts"] for worker in stats["workers"]))
            assert (await ask("GET", "/v1/good", good)).status == 200
            seen.append(gateway.server.output)
            kept = gateway.folder.joinpath("keys.json").read_text()
        seen.append(gateway.server.output if gateway.server.log.exists() else "")
        await asyncio.sleep(0)

    assert len(planter.secrets) >= 30
    assert "DEBUG" in "".join(seen)
    seen.append(kept)
    leaked = {where for text in seen for where in planter.found_in(text)}
    assert leaked == set()
    # The clients' own never went upstream; the gateway's did, and only there.
    sent = b"".join(bytes(connection.received) for connection in upstream.connections).decode("latin-1")
    assert env["UPSTREAM_KEY"] in sent
    assert set(planter.found_in(sent)) <= {"upstream's key", "upstream's header", "secret in a file", "prompt", "query"}
