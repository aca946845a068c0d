"""A worker that serves imports nothing any more: an import in the middle of traffic stalls every stream of its loop."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import jwt
import pytest
from downstream import Downstream
from integration.certificates import Authority
from integration.processes import running
from integration.redises import needs_redis, redis_server
from ports import free_port
from tokens import AUDIENCE, jwk, pem, signed
from upstreams import faults
from upstreams.faulty import FaultyUpstream, Peer
from upstreams.wire import Received
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

pytestmark = pytest.mark.integration
LOOPS = ("uvloop",)

SECRET = "a secret of more than thirty-two bytes"
CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
STREAM = json.dumps({"model": "m", "stream": True, "messages": []}).encode()
JSON = ("content-type", "application/json")
# Notes each import that is not answered from sys.modules, by process.
HOOK = """
import os, sys
_fd = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def _seen(event, arguments):
    if event == "import":
        os.write(_fd, f"{{os.getpid()}} {{arguments[0]}}\\n".encode())
sys.addaudithook(_seen)
"""
ASYMMETRIC = ("RS256", "PS256", "ES256", "ES384", "EdDSA")


def configuration(port: int, plain: str, tls: str, sockets: str, login: str, store: int, more: str = "") -> str:
    return f"""
[gateway]
host = "127.0.0.1"
port = {port}
workers = 1
drain_timeout = 2
drain_settle = 0
[metrics]
enabled = false
[auth]
keys_file = "keys.json"
[[auth.issuers]]
name = "login"
issuer = "{login}"
audience = ["{AUDIENCE}"]
algorithms = {json.dumps(ASYMMETRIC)}
jwks_url = "{login}/keys"
[[auth.issuers]]
name = "pem"
issuer = "https://pem.example.com/"
audience = ["{AUDIENCE}"]
algorithms = ["RS256"]
public_key_file = "issuer.pem"
[redis]
url = "redis://localhost:{store}"
[rate_limiting]
requests_per_minute = 100000
[[routes]]
path = "/v1/*"
provider = "plain"
mirror = {{ provider = "dead" }}
[[routes]]
path = "/tls/*"
provider = "tls"
auth_required = false
[[routes]]
path = "/socket"
provider = "sockets"
auth_required = false
websocket = true
[[routes]]
path = "/dead/*"
provider = "dead"
auth_required = false
[providers.plain]
kind = "openai"
endpoints = ["{plain}"]
[providers.tls]
kind = "openai"
endpoints = ["{tls}", "{tls.replace("127.0.0.1", "localhost")}"]
tls_verify = false
[providers.sockets]
kind = "openai"
endpoints = ["{sockets}"]
health_check_enabled = false
[providers.dead]
kind = "openai"
endpoints = ["http://does-not-exist.invalid:1"]
{more}
"""


def imported(seen: Path) -> Counter[tuple[int, str]]:
    pairs = (line.split() for line in seen.read_text().splitlines())
    return Counter((int(pid), name) for pid, name in pairs)


def workers(supervisor: int) -> set[int]:
    """The worker and what it is a fork of."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return {int(pid) for pid in children if "budgateway.process.worker" in Path(f"/proc/{pid}/cmdline").read_text()}


async def traffic(url: str, tokens: list[str]) -> None:
    """One of each kind of request that takes another way through a worker."""
    for token in tokens:
        for body in (BODY, STREAM):
            async with Downstream(url) as client:
                answer = await client.ask("POST", CHAT, body, [JSON, ("authorization", f"Bearer {token}")])
                assert answer.status == 200, answer.body
    for token in ("nonsense", tokens[0][:-4] + "AAAA", "bg-" + "x" * 40):
        async with Downstream(url) as client:
            answer = await client.ask("POST", CHAT, BODY, [JSON, ("authorization", f"Bearer {token}")])
            assert answer.status == 401
    for method, path, body in (
        ("POST", "/tls/v1/chat/completions", BODY),
        ("POST", "/dead/v1/chat/completions", BODY),
        ("POST", "/nowhere", BODY),
        ("POST", "/tls/v1/chat/completions", b"{"),
        ("POST", "/tls/v1/audio", b"x" * 300_000),
        ("GET", "/v1/models", None),
        ("GET", "/metrics", None),
        ("GET", "/readyz", None),
    ):
        async with Downstream(url) as client:
            assert (await client.ask(method, path, body, [JSON] if body else [])).status
    async with Downstream(url) as client:
        await client.send(b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n")
        await client.answer()
    async with connect(url.replace("http:", "ws:") + "/socket") as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"


async def echo(peer: ServerConnection) -> None:
    async for message in peer:
        await peer.send(message)


async def answered(peer: Peer, request: Received) -> None:
    await (faults.stream() if b'"stream"' in request.body else faults.chat())(peer, request)


@asynccontextmanager
async def store_of(has_redis: bool, folder: Path) -> AsyncIterator[int]:
    """The port of a Redis, or one where nobody listens."""
    if not has_redis:
        yield 1
        return
    context = redis_server(folder)
    server = await asyncio.to_thread(context.__enter__)
    try:
        yield server.port
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@pytest.mark.parametrize("has_redis", [False, pytest.param(True, marks=needs_redis)])
async def test_a_worker_that_serves_imports_nothing(has_redis: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "late")
    (tmp_path / "issuer.pem").write_text(pem("rsa"))
    (tmp_path / "hook").mkdir()
    seen = tmp_path / "seen"
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK.format(path=str(seen)))
    keys = {"keys": [jwk(name, name) for name in ASYMMETRIC]}

    async def login(peer: Peer, request: Received) -> None:
        await faults.raw(faults.json_bytes(keys))(peer, request)

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with (
        store_of(has_redis, tmp_path) as store,
        FaultyUpstream(answered) as plain,
        FaultyUpstream(answered, tls=authority.server_context()) as tls,
        FaultyUpstream(login) as issuer,
        serve(echo, "127.0.0.1", 0) as sockets,
    ):
        at = sockets.sockets[0].getsockname()[1]
        given = (port, plain.url, tls.url, f"http://localhost:{at}", issuer.url, store)
        file = tmp_path / "one.toml"
        file.write_text(configuration(*given))
        env = {"JWT_SECRET": SECRET, "PYTHONPATH": str(tmp_path / "hook")}
        now = int(time.time())
        own = {"sub": "ada", "iat": now, "exp": now + 300, "roles": ["user"]}
        tokens = [
            jwt.encode(own, SECRET, algorithm="HS256"),
            signed("RS256", iss="https://pem.example.com/"),
            *(signed(name, header={"kid": name}, iss=issuer.url) for name in ASYMMETRIC),
        ]
        context = running([sys.executable, "-m", "budgateway", "serve", "--config", str(file)], env)
        server = await asyncio.to_thread(context.__enter__)
        try:
            server.url = url
            await asyncio.to_thread(server.wait_for, "/readyz")
            before = imported(seen)
            await traffic(url, tokens)
            file.write_text(configuration(*given, "models = ['a*']\n"))
            server.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(20):
                while "configuration reloaded" not in server.output:
                    await asyncio.sleep(0.05)
            await traffic(url, tokens)
            pids = workers(server.process.pid)
            assert pids
            late = [name for pid, name in imported(seen) - before if pid in pids]
            assert not late, " ".join(late)
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)
