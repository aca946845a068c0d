"""curl, as people type it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CURL = shutil.which("curl")
pytestmark = [pytest.mark.integration, pytest.mark.skipif(CURL is None, reason="no curl on this machine")]

CHAT = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hello there"}]})
STREAM = json.dumps({**json.loads(CHAT), "stream": True})
TYPE = "content-type: application/json"


def curl(*words: str | Path, expect: int = 0) -> str:
    """Run curl and return its output; its exit status must be the expected one."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--noproxy", "*", *map(str, words)]
    done = subprocess.run(command, capture_output=True, timeout=30)
    assert done.returncode == expect, done.stderr.decode(errors="replace")
    return done.stdout.decode()


def test_chat(base_url: str) -> None:
    answer = json.loads(curl(f"{base_url}/v1/chat/completions", "-H", TYPE, "-d", CHAT))
    assert answer["choices"][0]["message"]["content"].startswith('You said: "hello there".')


def test_chat_streamed(base_url: str) -> None:
    lines = curl("-N", f"{base_url}/v1/chat/completions", "-H", TYPE, "-d", STREAM).split("\n\n")
    assert all(line.startswith("data: ") for line in lines[:-1])
    assert lines[-2:] == ["data: [DONE]", ""]


def test_stream_is_an_event_stream_in_chunks(base_url: str) -> None:
    head = curl("-N", "-D", "-", "-o", "/dev/null", f"{base_url}/v1/chat/completions", "-H", TYPE, "-d", STREAM).lower()
    assert head.startswith("http/1.1 200")
    assert "\r\ncontent-type: text/event-stream" in head
    assert "\r\ntransfer-encoding: chunked\r\n" in head
    assert "content-length" not in head


def test_chunked_upload(base_url: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_text(json.dumps({**json.loads(CHAT), "padding": "x" * 200_000}))
    url = f"{base_url}/v1/chat/completions"
    answer = json.loads(curl(url, "-H", TYPE, "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{body}"))
    assert answer["object"] == "chat.completion"


def test_expect_100_continue_with_a_large_body(base_url: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b'{"model": "demo", "x": "' + b"x" * 3_000_000 + b'"}')
    printed = curl(
        "-v", f"{base_url}/debug/echo", "-H", "Expect: 100-continue", "--data-binary", f"@{body}", "--stderr", "-"
    )
    assert "HTTP/1.1 100 Continue" in printed
    assert f'"body_bytes":{body.stat().st_size}' in printed


def test_http_1_0_gets_a_stream_that_ends_with_the_connection(base_url: str) -> None:
    printed = curl("-0", "-N", "-i", f"{base_url}/v1/chat/completions", "-H", TYPE, "-d", STREAM)
    head, _, body = printed.partition("\r\n\r\n")
    assert "chunked" not in head.lower()
    assert body.endswith("data: [DONE]\n\n")


def test_head_has_no_body(base_url: str) -> None:
    assert re.match(r"HTTP/1\.1 200 ", curl("--head", f"{base_url}/v1/models"))


def test_two_requests_share_a_connection(base_url: str) -> None:
    url = f"{base_url}/v1/models"
    printed = curl(url, "-o", "/dev/null", "-w", "%{num_connects} ", url, "-o", "/dev/null")
    assert printed.split() == ["1", "0"]


def test_connection_close_is_honoured(base_url: str) -> None:
    url = f"{base_url}/v1/models"
    printed = curl("-H", "Connection: close", url, "-o", "/dev/null", "-w", "%{num_connects} ", url, "-o", "/dev/null")
    assert printed.split() == ["1", "1"]


def test_multipart(base_url: str, tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(b"\r\n--boundary\x00" * 1000)
    answer = json.loads(curl(f"{base_url}/v1/audio/transcriptions", "-F", "model=demo", "-F", f"file=@{sound}"))
    assert answer == {"text": f"I heard {sound.stat().st_size} bytes of sound.wav."}


def test_no_more_is_read_once_curl_has_left(base_url: str) -> None:
    """curl closes a stream in the middle; the server answers the next one as if nothing had happened."""
    subprocess.run(
        f"curl -sN --noproxy '*' {base_url}/v1/chat/completions -H '{TYPE}' -d '{STREAM}' | head -c 100",
        shell=True,
        capture_output=True,
        timeout=30,
        check=True,
    )
    assert json.loads(curl(f"{base_url}/v1/models"))["object"] == "list"
