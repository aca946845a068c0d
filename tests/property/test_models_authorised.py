"""The model that is authorised is the model that runs, whatever a request's body, headers and query say.

What the front door and the router take from a generated request is what each reference reader of an upstream takes from what is
forwarded, or the request is refused, or no rule but one for all models takes it. Readers: Python's json, email and
python-multipart (FastAPI's); Go's encoding/json, mime/multipart and net/http, and Node's JSON and FormData (undici) where they
are installed. `BUDGATEWAY_FUZZ_MODELS=10000` sets how many requests, `BUDGATEWAY_FUZZ_SEED` which.
"""

from __future__ import annotations

import base64
import email.parser
import email.utils
import json
import os
import random
import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from codings import CODINGS
from python_multipart import create_form_parser
from python_multipart.exceptions import FormParserError

from budgateway.errors import GatewayError
from budgateway.exchange.handler_cy import ExchangeHandler
from budgateway.records import Route, WebSocket
from budgateway.routing.router_cy import CompiledRoute, Destination, Router
from budgateway.server.connection_cy import ServerConnection
from budgateway.server.state_cy import ServerState

CASES = int(os.environ.get("BUDGATEWAY_FUZZ_MODELS", "1500"))
SEED = int(os.environ.get("BUDGATEWAY_FUZZ_SEED", "16"))
READERS = Path(__file__).parent / "readers"
GO, NODE = shutil.which("go"), shutil.which("node")

NAMES = ["cheap", "dear", "gpt-4o", "org/model:tag", "mod\u00e8le", "\u6a21\u578b", "x" * 200]


class Request(NamedTuple):
    """A request: its target, header lines and body."""

    target: str
    headers: list[str]
    body: bytes


# ---------------------------------------------------------------- what is generated


def spelled(r: random.Random, text: str) -> str:
    """A JSON string, with escapes where none are needed."""
    if r.random() < 0.6:
        return json.dumps(text, ensure_ascii=r.random() < 0.5)
    return '"' + "".join(f"\\u{ord(c):04x}" if r.random() < 0.3 and ord(c) < 0xD800 else c for c in text) + '"'


def odd_key(r: random.Random) -> str:
    return r.choice(
        [
            "Model",
            "MODEL",
            "mODEL",
            "model ",
            "model\0",
            "mod\u0435l",
            "\uff4dodel",
            "models",
            "mod\u0395l",
            "m\u00f3del",
        ]
    )


def json_body(r: random.Random) -> bytes:
    members = [(spelled(r, "messages"), r.choice(["[]", '[{"role":"user","content":"hi","model":"dear"}]']))]
    if r.random() < 0.85:
        members.append((spelled(r, "model"), spelled(r, r.choice(NAMES))))
    if r.random() < 0.25:
        members.append((spelled(r, r.choice(["model", odd_key(r)])), spelled(r, r.choice(NAMES))))
    if r.random() < 0.1:
        odd = [
            "null",
            "1",
            "true",
            '["dear"]',
            '{"model":"dear"}',
            '"a\\ud800"',
            '"a\\u0000b"',
            '""',
            '"\\ud83d\\ude00"',
            "NaN",
        ]
        members.append((spelled(r, r.choice(["model", "x", odd_key(r)])), r.choice(odd)))
    r.shuffle(members)
    gap = r.choice(["", " ", "\n\t", "\r\n"])
    text = "{" + ",".join(f"{gap}{key}{gap}:{value}{gap}" for key, value in members) + "}"
    kind = r.random()
    if kind < 0.12:
        text = r.choice(
            [text + '{"model":"dear"}', text + "//", "\ufeff" + text, "[" + text + "]", text + ",", text[:-1],
             text.replace('"', "'"), "/* */" + text, text + "\0", " " + text + "\n", text + " x", '"' + text]
        )  # fmt: skip
    encoding = "utf-8" if r.random() < 0.95 else r.choice(["utf-16", "utf-16-le", "utf-32-be", "utf-7", "latin-1"])
    return text.encode(encoding, "replace")


EVIL_HEADS = [
    "name*=utf-8''model", "name*=utf-8''%6dodel", 'name*0="mod"; name*1="el"', "name*0*=utf-8''mod; name*1=el",
    'name="x"; name="model"', 'name="model"; name="x"', 'name="Model"', 'name="%6dodel"', 'name="model[]"', 'name=" model"',
    'name="mo\\del"', 'name="=?utf-8?q?model?="', 'filename="a\\"; name="model"', 'name="x"; filename="a; name=model"',
    'name = "model"', '\r\n name="model"', 'name="model";', "name='model'", 'name="model"; filename="x"', 'name="_charset_"',
    'name="model"; filename*=utf-8\'\'x', 'NAME="model"', 'name="m\u00f6del"', 'name="model', "name=mod el", 'name="model"x',
    'name=model', 'name="x"', 'name="x";name="\\model"', 'x=y; name="model"', "name=model; name*=utf-8''x", 'name*1="model"',
]  # fmt: skip


def form_part(r: random.Random, boundary: str) -> bytes:
    lines = []
    kind = r.random()
    if kind < 0.45:
        parameters = r.choice(['name="model"', "name=model"])
        value = r.choice(NAMES).encode()
    elif kind < 0.6:
        parameters = r.choice(EVIL_HEADS)
        value = r.choice(NAMES).encode()
    elif kind < 0.8:
        parameters = 'name="file"; filename="a.wav"'
        value = r.choice([
            r.randbytes(r.randrange(0, 3000)),
            f'x\r\n\r\n--{boundary}x\r\nContent-Disposition: form-data; name="model"\r\n\r\ndear\r\n'.encode(),
            f'\n--{boundary}\nContent-Disposition: form-data; name="model"\n\ndear\n'.encode(),
            f'--{boundary}\r\n'.encode(), b"\r\n\r\n", b"\r", b"\r\n--", f"\r\n--{boundary[:-1]}".encode(),
            b'Content-Disposition: form-data; name="model"\r\n\r\ndear',
        ])  # fmt: skip
    else:
        parameters = r.choice(['name="prompt"', 'name="temperature"', 'name="models"', 'name="response_format"'])
        value = r.choice([b"", b"1", b'{"model":"dear"}', b"model=dear"])
    disposition = "form-data" if r.random() < 0.97 else r.choice(["attachment", "inline", "Form-Data", "file", ""])
    semicolon = r.choice(["; ", "; ", ";"])
    lines.append(f"{r.choice(['Content-Disposition', 'content-disposition'])}: {disposition}{semicolon}{parameters}")
    if r.random() < 0.2:
        lines.append(
            r.choice([
                "Content-Type: text/plain", "Content-Type: text/plain; charset=utf-8", "Content-Type: text/plain; charset=utf-16",
                "Content-Transfer-Encoding: base64", "Content-Transfer-Encoding: quoted-printable",
                "Content-Transfer-Encoding: 8bit", 'Content-Disposition: form-data; name="model"', "X-Y: z", "no colon",
                "Content-Type: multipart/mixed; boundary=i", " folded", "Content-Length: 4", "Content-Type : text/plain",
            ])
        )  # fmt: skip
    r.shuffle(lines)
    end = "\r\n" if r.random() < 0.97 else r.choice(["\n", "\r"])
    return f"--{boundary}{end}{end.join(lines)}{end}{end}".encode() + value + end.encode()


def form_body(r: random.Random) -> tuple[str, bytes]:
    boundary = r.choice(["b0undary", "----WebKitFormBoundaryAbC123", "B", "a=b", "a'b", "x-y_z.w"])
    body = b"".join(form_part(r, boundary) for _ in range(r.choice([0, 1, 1, 2, 2, 2, 3, 4])))
    last = f"--{boundary}--"
    ending = (
        last + "\r\n"
        if r.random() < 0.9
        else r.choice([last, "", last[:-1], last + " \r\n", last + "\n", last + "\r\nmore"])
    )
    body += ending.encode()
    if r.random() < 0.06:
        body = r.choice([b"\r\n", b'{"model":"dear"}\r\n', b"preamble\r\n", b" "]) + body
    if r.random() < 0.03:
        body += body
    if r.random() < 0.03:
        body = r.choice([b'{"model":"dear"}', b"", b"model=dear"])
    quoted = f'"{boundary}"' if "=" in boundary or r.random() < 0.2 else boundary
    kind = f"multipart/form-data; boundary={quoted}"
    if r.random() < 0.12:
        kind = r.choice([
            f"multipart/form-data;boundary={boundary}", f"Multipart/Form-Data; Boundary={quoted}",
            f"multipart/form-data; boundary={quoted}; boundary=other", f"multipart/form-data; boundary=other; boundary={quoted}",
            f"multipart/form-data; boundary*=utf-8''{boundary}", "multipart/form-data", f"multipart/mixed; boundary={quoted}",
            f"multipart/form-data; charset=utf-8; boundary={quoted}", f"multipart/form-data; boundary={quoted}; charset=utf-16",
            f'multipart/form-data; boundary="{boundary} "', f"multipart/form-data, x; boundary={quoted}",
            f"multipart/form-data; x=\"; boundary=other\"; boundary={quoted}", "application/x-www-form-urlencoded",
        ])  # fmt: skip
    return kind, body


def request(r: random.Random) -> Request:
    """One request. Most are what clients send but for one thing or two."""
    if r.random() < 0.5:
        body = json_body(r)
        kind = "application/json"
        if r.random() < 0.25:
            kind = r.choice([
                "application/json; charset=utf-8", "application/json;charset=UTF-8", "application/json; charset=utf-16",
                "application/vnd.api+json", "Application/JSON", "text/plain", "text/json", "", "application/octet-stream",
                'application/json; charset="utf-7"', "application/json, text/plain", "application/x-www-form-urlencoded",
            ])  # fmt: skip
    else:
        kind, body = form_body(r)
    if r.random() < 0.05 and body:
        at = r.randrange(len(body))
        body = r.choice(
            [body[:at], body[:at] + r.randbytes(1) + body[at:], body[:at] + body[at + 1 :], body + body[at:]]
        )
    headers = [f"Content-Type: {kind}"] if kind else []
    if r.random() < 0.15:
        coding = r.choice(
            ["gzip", "deflate", "GZip", "x-gzip", "identity", "br", "zstd", "gzip, gzip", "gzip, identity", "utf8", ""]
        )
        if r.random() < 0.9:
            if coding.lower() in CODINGS and 0 < len(body) <= 1 << 16:
                body = CODINGS[coding.lower()](body)
            if r.random() < 0.15:
                body = r.choice([body[:-3], body + b"x", body + body, body[:-1]])
        headers.append(f"Content-Encoding: {coding}")
    if r.random() < 0.2:
        headers += r.choice([
            ["Connection: Upgrade", "Upgrade: h2c"], ["Connection: Upgrade", "Upgrade: websocket"],
            ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="],
        ])  # fmt: skip
    target = "/v1/any"
    if r.random() < 0.25:
        target = r.choice(
            [target] * 4 + ["/v1/models/cheap:generate", "/openai/deployments/dear/chat", "/%64eployments/dear/chat"]
        ) + r.choice(
            [
                "?model=cheap",
                "?model=dear&x=1",
                "?x=1;model=dear",
                "?model=a&model=b",
                "?Model=dear",
                "?mode%6c=cheap",
                "",
            ]
        )
    return Request(target, headers, body)


# ---------------------------------------------------------------- what the gateway takes


class Wire:
    """A transport that keeps nothing: `ServerConnection` writes no byte here that matters."""

    def write(self, data: bytes) -> None:
        """Of no interest."""

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return ("127.0.0.1", 1)

    def set_write_buffer_limits(self, high: int) -> None:
        """There is no buffer."""

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing to close."""

    abort = close


class Taker(ExchangeHandler):
    """A handler behind the front door: routes each request, as the pipeline does, and keeps what would be forwarded."""

    def __init__(self) -> None:
        destinations = [Destination((), None, "p", 0)]
        routes = [
            Route(name="all", path="/*", provider="p"),
            Route(name="socket", path="/v1/realtime", provider="p", websocket=WebSocket()),
        ]
        rooms = [
            CompiledRoute(route, access="authenticated", label=0, destinations=destinations, attempts=None)
            for route in routes
        ]
        self.router = Router(rooms, {}, 10 << 20)
        self.answer: tuple[str, Any] = ("", None)
        self.kind = ""
        self.coding: str | None = None
        self.forwarded = bytearray()

    def start(self, x: Any) -> None:
        try:
            self.router.match(x)
        except GatewayError as error:
            self.answer = ("refused", str(error))
            x.downstream.finish(False)
            return
        self.answer = ("takes", None if x.hides_model else x.model)
        self.kind = x.head.header("content-type") or ""
        self.coding = x.head.header("content-encoding")
        self.forwarded += x.body or b""

    def body(self, x: Any, data: bytes) -> None:
        self.forwarded += data

    def body_end(self, x: Any) -> None:
        """The readers are asked by whoever holds the body."""

    def fail(self, x: Any, error: GatewayError) -> None:
        self.answer = ("refused", str(error))
        x.downstream.finish(False)

    def refuse_malformed(self, connection: Any, error: GatewayError, data: bytes, dialect: int) -> None:
        self.answer = ("refused", str(error))

    def gone(self, x: Any) -> None:
        """It has been told."""

    def sweep(self, x: Any, now_ns: int) -> None:
        """No time passes."""


def taken(one: Request, r: random.Random) -> Taker:
    """Return the gateway's reading of a request that arrives in pieces."""
    taker = Taker()
    server_state = ServerState(
        taker,
        lambda call: None,
        keepalive_ns=1 << 60,
        head_timeout_ns=1 << 60,
        max_body_bytes=10 << 20,
        max_connections=10,
    )
    connection = ServerConnection(server_state)
    connection.connection_made(Wire())
    head = [f"POST {one.target} HTTP/1.1", "Host: x", f"Content-Length: {len(one.body)}", *one.headers, "", ""]
    data = "\r\n".join(head).encode("latin-1") + one.body
    cuts = sorted(r.randrange(1, len(data)) for _ in range(r.choice([0, 0, 1, 3])))
    for start, end in zip([0, *cuts], [*cuts, len(data)]):
        if start < end and taker.answer[0] != "refused":
            connection.data_received(data[start:end])
    return taker


# ---------------------------------------------------------------- what upstreams take


def by_python(kind: str, body: bytes) -> list[str]:
    """Python's json, strict and lenient, of a text in any of its encodings; and its email package."""
    found: list[Any] = []
    for read in (json.loads, lambda text: json.JSONDecoder().raw_decode(text.decode())[0]):
        for pairs in (None, lambda pairs: dict(reversed(pairs))):
            try:
                document = json.loads(body, object_pairs_hook=pairs) if read is json.loads else read(body)
            except (ValueError, RecursionError):
                continue
            if isinstance(document, dict):
                found.append(document.get("model"))
    if kind.lower().startswith("multipart/"):
        message = email.parser.BytesParser().parsebytes(b"Content-Type: " + kind.encode("latin-1") + b"\r\n\r\n" + body)
        parts = message.get_payload()
        for part in parts if isinstance(parts, list) else []:
            name = part.get_param("name", header="content-disposition")
            if email.utils.collapse_rfc2231_value(name) == "model" if name is not None else False:
                found.append((part.get_payload(decode=True) or b"").decode("utf-8", "replace"))
        found += by_python_multipart(kind, body)
    return [model for model in found if isinstance(model, str)]


def by_python_multipart(kind: str, body: bytes) -> list[str]:
    """The reader of FastAPI's forms."""
    found: list[str] = []

    def take(field: Any) -> None:
        if field.field_name == b"model":
            found.append((field.value or b"").decode("utf-8", "replace"))

    def take_file(file: Any) -> None:
        if file.field_name == b"model":
            found.append("a file")

    try:
        parser = create_form_parser({"Content-Type": kind.encode("latin-1")}, take, take_file)
        parser.write(body)
        parser.finalize()
    except (ValueError, FormParserError):
        return []
    return found


def by_batch(command: list[str], asked: list[tuple[str, bytes]]) -> list[list[str]]:
    """Return the models that a program of `readers/` takes, for all requests at once."""
    lines = "".join(json.dumps({"Kind": kind, "Body": base64.b64encode(body).decode()}) + "\n" for kind, body in asked)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(asked)
    return answers


@pytest.fixture(scope="module")
def authorised() -> list[tuple[Request, str, str, bytes]]:
    """The requests that are authorised for one model, with it, and with what goes upstream."""
    r = random.Random(SEED)
    found = []
    refused = hidden = 0
    for _ in range(CASES):
        one = request(r)
        taker = taken(one, r)
        what, model = taker.answer
        if what == "refused":
            refused += 1
        elif model is None:
            hidden += 1
        else:
            assert what == "takes", one
            assert not one.body or taker.coding in (None, "", "identity"), one
            assert model or not one.body, one
            found.append((one, model, taker.kind, bytes(taker.forwarded)))
    print(
        f"{CASES} requests, seed {SEED}: {len(found)} authorised for a model, {refused} refused, {hidden} without one"
    )
    assert min(len(found), refused) > CASES // 6, "the generator makes too much of one kind"
    return found


def by_target(target: str) -> list[str]:
    """The models that LiteLLM prefers to the body's: the query's and the path's."""
    parts = urlsplit(target)
    named = re.findall(r"/(?:deployments|models)/([^/:]+)", unquote(parts.path))
    return [*named, *parse_qs(parts.query).get("model", [])]


def compare(authorised: list[tuple[Request, str, str, bytes]], answers: list[list[str]]) -> None:
    read = 0
    for (one, model, _, body), models in zip(authorised, answers):
        read += bool(models)
        assert set(models) <= {model}, (one, body)
    assert read > len(authorised) // 2, "the readers take nothing"


@pytest.mark.filterwarnings("ignore")
def test_python_takes_the_model_that_was_authorised(authorised: list[tuple[Request, str, str, bytes]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compare(authorised, [by_python(kind, body) + by_target(one.target) for one, _, kind, body in authorised])


@pytest.mark.skipif(GO is None, reason="Go is not installed: its readers are not compared")
@pytest.mark.timeout(240)
def test_go_takes_the_model_that_was_authorised(
    authorised: list[tuple[Request, str, str, bytes]], tmp_path: Path
) -> None:
    program = tmp_path / "models"
    built = subprocess.run(
        [str(GO), "build", "-o", program, READERS / "models.go"], capture_output=True, text=True, timeout=200
    )
    assert built.returncode == 0, built.stderr
    compare(authorised, by_batch([str(program)], [(kind, body) for _, _, kind, body in authorised]))


@pytest.mark.skipif(NODE is None, reason="Node is not installed: its readers are not compared")
@pytest.mark.timeout(180)
def test_node_takes_the_model_that_was_authorised(authorised: list[tuple[Request, str, str, bytes]]) -> None:
    asked = [(kind, body) for _, _, kind, body in authorised]
    compare(authorised, by_batch([str(NODE), str(READERS / "models.mjs")], asked))
