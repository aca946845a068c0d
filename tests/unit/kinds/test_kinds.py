"""A provider kind is one file: whatever needs to know it finds it there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import budgateway
from budgateway.kinds import KINDS

PACKAGE = Path(budgateway.__file__).parent

ACME = """
\"\"\"Acme's server.\"\"\"

from budgateway.kinds.kind import Kind

KIND = Kind(
    name="acme",
    precedence=9,
    endpoints_variable="ACME_ENDPOINTS",
    key_variable="ACME_API_KEY",
    key_header="x-acme-key",
    key_prefix="",
    probe_path="/alive",
    load_paths=("/stats",),
    running=("acme:busy",),
    vendor_headers=("x-acme",),
)
"""
PROGRAM = """
import json
from budgateway import load_config
from budgateway.config.schema import ProviderConfig
from budgateway.health.engine import RUNNING
from budgateway.app.wiring import targets_of

settings = load_config(environ={"ACME_ENDPOINTS": "http://127.0.0.1:9", "ACME_API_KEY": "secret-of-acme"})
(provider,) = settings.providers
(target,) = targets_of(provider, {})
from budgateway.native import RequestHead
head = RequestHead.parse(b"GET /v1/models HTTP/1.1\\r\\nhost: a\\r\\nx-acme: passed\\r\\n\\r\\n")
print(json.dumps({
    "kind": provider.kind,
    "probe": [provider.health_check.path, *provider.health_check.load_paths],
    "schema": json.dumps(ProviderConfig.model_json_schema()["properties"]["kind"]),
    "metric": "acme:busy" in RUNNING,
    "head": target.write_head(head, "id", -1).decode(),
}))
"""


def test_kinds_are_in_their_order() -> None:
    engines = ["ollama", "llamacpp", "tgi"]
    assert list(KINDS) == ["openai", "vllm", "sglang", "litellm", "anthropic", "gemini", "azure", *engines]
    assert all(kind.name == name for name, kind in KINDS.items())


def test_a_kind_is_one_file(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "budgateway", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "budgateway" / "kinds" / "acme.py").write_text(ACME.lstrip())
    env = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin"}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["kind"], told["probe"], told["metric"]) == ("acme", ["/alive", "/stats"], True)
    assert '"acme"' in told["schema"]
    assert "x-acme-key: secret-of-acme\r\n" in told["head"]
    assert "x-acme: passed\r\n" in told["head"]
