"""docs/development.md shows how to add a dialect: its example is installed as one folder, and works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import budgateway

PACKAGE = Path(budgateway.__file__).parent
DOCS = Path(__file__).resolve().parents[3] / "docs" / "development.md"

PROGRAM = """
import json
from types import SimpleNamespace

from budgateway.exchange.exchange_cy import Exchange
from budgateway.kinds import KINDS
from budgateway.native import Peeker, RequestHead, RequestHeadWriter, ResponseHead
from budgateway.providers.registry import adapters_of
from budgateway.records import Provider
from budgateway.wire.dialects import number_of

body = b'{"model": "bear", "messages": [{"role": "user", "content": "hi"}]}'
head = RequestHead.parse(b"POST /v1/chat/completions HTTP/1.1\\r\\nhost: a\\r\\nuser-agent: u\\r\\n\\r\\n")
x = Exchange(head, None, "client", 0)
x.body, x.body_done, x.peek, x.model = body, True, Peeker().peek(body), "bear"
x.target = SimpleNamespace(redactor=None, label="up")
adapters = adapters_of(Provider(name="p", kind="acme", upstreams=()), KINDS["acme"])
adapter = adapters[number_of("openai.chat")]
adapter.request(x)
sent = RequestHeadWriter("up", "", "", (), []).write(x.head, "id", len(x.send_body), x.head_edits)


def answer(status, document):
    body = json.dumps(document).encode()
    lines = b"HTTP/1.1 %d X\\r\\ncontent-type: application/json\\r\\ncontent-length: %d\\r\\n\\r\\n" % (status, len(body))
    head = ResponseHead.parse(lines + body)
    x.status, x.response_flags = status, head.flags
    return json.loads(adapter.document(x, head))


events = adapter.events(x)
print(json.dumps({
    "sent": sent.decode(),
    "body": json.loads(x.send_body),
    "answer": answer(200, {"said": "hello"}),
    "error": answer(404, {"problem": "gone"}),
    "stream": (events.feed(b'data: {"sa') + events.feed(b'id": 1}\\n\\n') + events.finish()).decode(),
    "others": len(set(adapters)),
    "plan": adapter.cached_plan(x) is None,
}))
"""


def test_a_dialect_is_one_folder(tmp_path: Path) -> None:
    section = DOCS.read_text().partition("\n## A new dialect\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (kind,) = re.findall(r"`(Kind\(name=[^`]+\))`", section)
    shutil.copytree(PACKAGE, tmp_path / "budgateway", ignore=shutil.ignore_patterns("__pycache__"))
    folder = tmp_path / "budgateway" / "providers" / "acme"
    folder.mkdir()
    (folder / "__init__.py").write_text(code)
    kinds = tmp_path / "budgateway" / "kinds" / "acme.py"
    kinds.write_text(f"from budgateway.kinds.kind import Kind\n\nKIND = {kind}\n")
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["sent"].startswith("POST /acme/bear HTTP/1.1\r\n")
    assert "acme-version: 1\r\n" in told["sent"]
    assert "user-agent" not in told["sent"]
    assert told["body"] == {"ask": "hi"}
    assert told["answer"]["choices"][0]["message"]["content"] == "hello"
    assert told["error"] == {"error": {"message": "gone"}}
    assert told["stream"] == 'data: {"content": 1}\n\ndata: [DONE]\n\n'
    assert told["others"] == 2  # this adapter, and passthrough for all other dialects
    assert told["plan"]
