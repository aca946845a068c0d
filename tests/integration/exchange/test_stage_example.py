"""docs/development.md shows how to add a stage that may answer: its example is one folder and one line, and works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import budgateway

pytestmark = pytest.mark.integration

PACKAGE = Path(budgateway.__file__).parent
TESTS = Path(__file__).resolve().parents[2]
SECTION = (
    (TESTS.parent / "docs" / "development.md")
    .read_text()
    .partition("\n## A new stage that may answer\n")[2]
    .partition("\n## ")[0]
)
EMPTY = "STAGES: tuple[Callable[[Route], Stage | None], ...] = ()\n"

# Asks a gateway with the stage for both models in turn, and counts how often the stage decided.
PROGRAM = """
import asyncio
import json
import sys
from pathlib import Path

from downstream import Downstream
from integration.inside import inside
from upstreams import faults
from upstreams.faulty import FaultyUpstream

from budgateway.canned import Canned

models = []
decide = Canned.decide


def counted(self, x):
    models.append(x.model)
    decide(self, x)


async def main():
    Canned.decide = counted
    answers = []
    async with (
        FaultyUpstream(faults.chat()) as upstream,
        inside(upstream.url, Path.cwd(), path="/v1/*") as gateway,
        Downstream(gateway.url) as client,
    ):
        for model in sys.argv[1:]:
            body = json.dumps({"model": model, "messages": []}).encode()
            answer = await client.ask("POST", "/v1/chat/completions", body, [("content-type", "application/json")])
            answers.append([answer.status, answer.json()["choices"][0]["message"]["content"]])
        lines = await gateway.lines(len(answers))
        print(json.dumps({
            "answers": answers,
            "decided": models,
            "sent": len(upstream.requests),
            "fast": gateway.plane.fastpath.native.served(),
            "outcomes": [line["outcome"] for line in lines],
            "own": len(gateway.plane.snapshot.routes.compiled_routes[-1].stages),
        }))


asyncio.run(main())
"""


def run(folder: Path, code: str, line: str, models: list[str]) -> dict[str, Any]:
    """Run a gateway with this stage, ask it once for each of the models, and return its report."""
    shutil.copytree(PACKAGE, folder / "budgateway", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "budgateway" / "canned").mkdir()
    (folder / "budgateway" / "canned" / "__init__.py").write_text(code)
    wiring = folder / "budgateway" / "app" / "wiring.py"
    written = wiring.read_text()
    assert EMPTY in written
    listed = written.replace(EMPTY, EMPTY.replace("()\n", f"(\n{line})\n"))
    wiring.write_text(listed.replace("from budgateway import native\n", "from budgateway import canned, native\n", 1))
    env = {"PYTHONPATH": f"{folder}:{TESTS}", "PATH": "/usr/bin"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *models], env=env, cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout)
    assert told["own"] == 0
    assert told["outcomes"] == ["complete"] * len(models)
    assert told["sent"] == models.count("demo")
    for model, (status, content) in zip(models, told["answers"], strict=True):
        assert status == 200
        assert (content == "ok") == (model == "canned")
    return told


def test_a_stage_is_one_folder_and_one_line_and_sees_every_request(tmp_path: Path) -> None:
    code, line, _ = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    models = ["demo", "canned"] * 4
    told = run(tmp_path, code, line, models)
    assert (told["decided"], told["fast"]) == (models, 0)


def test_a_stage_may_leave_other_models_to_the_fast_path(tmp_path: Path) -> None:
    code, line, method = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    code = code.replace("\n\ndef stage_of", f"\n{method}\n\ndef stage_of", 1)
    code = code.replace("\nfrom ", "\nfrom budgateway.exchange.cached_plan import NOTHING\nfrom ", 1)
    told = run(tmp_path, code, line, ["demo"] * 4 + ["canned"] * 4)
    assert told["fast"] > 0
    assert told["decided"] == ["demo"] * (4 - told["fast"]) + ["canned"] * 4
