"""The load rig against itself: what the generator counts is what the null model server sent."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

# By path: the checkout itself stays off the path of the tests.
ROOT = Path(__file__).parents[3]
SPEC = importlib.util.spec_from_file_location("rig", ROOT / "benchmarks" / "load" / "rig.py")
assert SPEC is not None and SPEC.loader is not None
rig = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rig)

REPLY_BYTES = 400
PATH = "/v1/chat/completions"

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def binary() -> Path:
    """The rig as cargo built it: `cargo build --release -p budgateway-load`."""
    found = rig.built()
    if found is None:
        pytest.skip("budgateway-load is not built: cargo build --release -p budgateway-load")
    return found


@pytest.fixture
def upstream(binary: Path) -> Iterator[str]:
    with rig.upstream(binary, "--interval-us", "200") as url:
        yield url


def stats(upstream: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{upstream}/stats", timeout=5) as response:
        read: dict[str, int] = json.load(response)
        return read


def test_every_plain_request_is_counted_once_on_both_sides(binary: Path, upstream: str) -> None:
    options = ("--requests", "500", "--connections", "8", "--body-bytes", "20000", "--expect-bytes", str(REPLY_BYTES))
    report = rig.run(binary, upstream + PATH, *options)
    assert (report["started"], report["completed"], report["errors"], report["non_2xx"]) == (500, 500, 0, 0)
    assert report["statuses"] == {"200": 500}
    assert report["body_bytes"] == 500 * REPLY_BYTES
    seen = stats(upstream)
    assert (seen["requests"], seen["body_bytes"], seen["malformed"]) == (500, 500 * 20_000, 0)


def test_every_event_of_every_stream_arrives(binary: Path, upstream: str) -> None:
    report = rig.run(binary, upstream + PATH, "--streams", "5", "--requests", "20", "--events", "30")
    assert (report["completed"], report["errors"]) == (20, 0)
    # Beside the numbered ones: the usage and the terminator.
    assert report["stream"]["chunks"] == 20 * (30 + 2)
    seen = stats(upstream)
    assert (seen["streams"], seen["events"], seen["aborted"]) == (20, 20 * 30, 0)


def test_the_delay_of_an_event_is_less_than_its_stream_takes(binary: Path, upstream: str) -> None:
    report = rig.run(binary, upstream + PATH, "--streams", "1", "--requests", "5", "--events", "10")
    delay = report["stream"]["delay_us"]
    assert 0 <= delay["min"] <= delay["p50"] <= delay["max"] < report["latency_us"]["max"]
    assert delay["max"] > 0


def test_open_loop_keeps_its_rate(binary: Path, upstream: str) -> None:
    report = rig.run(binary, upstream + PATH, "--rate", "200", "--duration", "0.5")
    assert (report["mode"], report["started"], report["completed"]) == ("open", 100, 100)
    assert report["elapsed_s"] > 0.45


def test_open_loop_counts_the_wait_for_a_connection(binary: Path) -> None:
    """Coordinated omission: with one connection and streams of 20 ms, the tenth request of 10 waits for nine others."""
    with rig.upstream(binary, "--interval-us", "1000") as url:
        report = rig.run(binary, url + PATH, "--streams", "1", "--events", "20", "--rate", "1000", "--requests", "10")
    assert report["completed"] == 10
    assert report["latency_us"]["max"] > 150_000


def test_what_is_wrong_is_reported_and_fails_the_run(binary: Path, upstream: str) -> None:
    missing = rig.run(binary, upstream + "/nowhere", "--method", "GET", "--requests", "3", "--connections", "1")
    assert (missing["completed"], missing["non_2xx"], missing["statuses"]) == (0, 3, {"404": 3})
    short = rig.run(binary, upstream + PATH, "--requests", "3", "--connections", "1", "--expect-bytes", "401")
    assert (short["completed"], short["failures"]["length"]) == (0, 3)
    few = rig.run(
        binary, upstream + PATH, "--streams", "1", "--requests", "2", "--events", "3", "--body-file", "/dev/null"
    )
    assert few["completed"] == 0
    ended = subprocess.run(
        [binary, "run", "--requests", "1", upstream + "/nowhere", "--method", "GET"], capture_output=True
    )
    assert ended.returncode == 1


def test_a_connection_cut_inside_a_response_is_an_error(binary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\nhalf")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        report = rig.run(binary, url, "--requests", "1", "--connections", "1")
        thread.join()
    assert (report["completed"], report["failures"]["truncated"]) == (0, 1)


def test_nobody_listening_is_an_error_and_not_a_hang(binary: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
        report = rig.run(binary, url, "--requests", "1", "--connections", "1")
    assert report["completed"] == 0
    assert report["failures"]["connect"] > 0


def test_other_machines_are_not_a_target(binary: Path) -> None:
    done = subprocess.run([binary, "run", "--requests", "1", "http://192.0.2.1:80/"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "not this machine" in done.stderr


class Recorder(BaseHTTPRequestHandler):
    """Answers every POST, and keeps its token and its model."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    seen: ClassVar[list[tuple[str, str]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append((self.headers["authorization"], body["model"]))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_words: object) -> None:
        """No line a request."""


def recorded(binary: Path, *options: str) -> list[tuple[str, str]]:
    """Token and model of each request of one run, in their order."""
    seen: list[tuple[str, str]] = []
    handler = type("OwnRecorder", (Recorder,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}{PATH}"
            report = rig.run(binary, url, "--connections", "1", "--requests", "200", *options)
        finally:
            server.shutdown()
            serving.join()
    assert (report["completed"], report["errors"]) == (200, 0)
    return seen


def test_requests_are_spread_over_tokens_and_models_in_a_seeded_order(binary: Path, tmp_path: Path) -> None:
    tokens, models = tmp_path / "tokens", tmp_path / "models"
    tokens.write_text("".join(f"token-{number}\n" for number in range(9, 12)))  # not of one length
    models.write_text("".join(f"model-{number}\n" for number in range(5)))
    spread = ("--tokens", str(tokens), "--models", str(models))
    seen = recorded(binary, *spread)
    assert {token for token, _ in seen} == {f"Bearer token-{number}" for number in range(9, 12)}
    assert {model for _, model in seen} == {f"model-{number}" for number in range(5)}
    assert len(set(seen)) == 3 * 5
    assert recorded(binary, *spread, "--seed", "1") == seen
    assert recorded(binary, *spread, "--seed", "2") != seen


def test_a_connection_for_each_request(binary: Path, upstream: str) -> None:
    report = rig.run(binary, upstream + PATH, "--requests", "50", "--connections", "1", "--close")
    assert (report["completed"], report["errors"]) == (50, 0)
    # With the one that asks.
    assert stats(upstream)["connections"] == 50 + 1
