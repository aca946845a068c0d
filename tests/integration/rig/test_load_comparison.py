"""The comparison of gateways: it starts, measures, checks and ends what it started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flavours import PURE

ROOT = Path(__file__).parents[3]
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "budgateway-load"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.peers,
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(not BINARY.exists(), reason="not built: cargo build --release -p budgateway-load"),
    pytest.mark.skipif(shutil.which("nginx", path=os.defpath + ":/usr/sbin") is None, reason="no nginx here"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2 or shutil.which("taskset") is None, reason="needs two cores, taskset"),
]


def test_one_round_of_nginx(tmp_path: Path) -> None:
    samples, tables = tmp_path / "run.json", tmp_path / "run.md"
    words = ["--peers", "nginx", "--cases", "small,stream,one", "--rounds", "1", "--seconds", "0.3"]
    command = [sys.executable, "-m", "benchmarks.load", *words, "--json", str(samples), "--markdown", str(tables)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    run = json.loads(samples.read_text())
    for case in ("small", "stream", "one"):
        (sample,) = run["samples"][case]["nginx"]
        # A request costs more than a system call and less than a process.
        assert 1 < sample["cpu_us"] < 5_000
        assert (sample["report"]["errors"], sample["report"]["non_2xx"]) == (0, 0)
        assert sample["report"]["completed"] == sample["report"]["started"] > 0
    assert run["samples"]["one"]["direct"] and run["samples"]["stream"]["direct"]
    assert run["memory"]["nginx"]["rss_bytes"] > 1_000_000
    text = tables.read_text()
    assert "| nginx |" in text and "WRONG" not in text
    assert "| delay p99 us |" in text and "| added p99 us |" in text
    assert text.strip() in done.stdout


@pytest.mark.skipif(PURE, reason="the interpreted flavour is not what is measured")
def test_features_users_and_models_of_a_case(tmp_path: Path) -> None:
    """A 401, a 404 or an answer of another length would be a request gone wrong."""
    samples, tables = tmp_path / "run.json", tmp_path / "run.md"
    cases = ("everything", "event-everything", "close-jwt")
    words = ["--peers", "budgateway", "--cases", ",".join(cases), "--users", "3", "--models", "2"]
    words += ["--rounds", "1", "--seconds", "0.2", "--json", str(samples), "--markdown", str(tables)]
    command = [sys.executable, "-m", "benchmarks.load", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    run = json.loads(samples.read_text())
    assert set(run["samples"]) == {f"{case}-3-users-2-models" for case in cases}
    for case in cases:
        (sample,) = run["samples"][f"{case}-3-users-2-models"]["budgateway"]
        assert sample["report"]["completed"] == sample["report"]["started"] > 0
    text = tables.read_text()
    assert "| gateway | CPU us a stream |" in text
    assert "concurrency by user, a budget by user and prices, an alias for each model" in text
    assert text.count("; 3 users, 2 models") == 3
