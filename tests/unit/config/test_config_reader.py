"""The configuration as a process of its own reads it: the same, with the same problems, as often as it is asked for."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from budgateway.config import reader
from budgateway.config.load import load_config
from budgateway.config.reader import Found, Reader, Wish
from budgateway.errors import ConfigError, GatewayError

SAMPLES = Path(__file__).parents[3] / "config"


def folder(path: Path, port: int) -> Path:
    (path / "gateway.toml").write_text(f"[gateway]\nport = {port}\n")
    (path / "providers.toml").write_text('[providers.openai]\nendpoints = ["http://127.0.0.1:9"]\n')
    (path / "routes.toml").write_text('[[routes]]\npath = "/v1/*"\nprovider = "openai"\nauth_required = false\n')
    return path


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of whoever runs the tests, and no .env, has a say."""
    for name in set(os.environ) - {"PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH"}:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("environ")
def test_it_reads_what_load_config_reads_and_reads_it_again(tmp_path: Path) -> None:
    with closing(Reader(str(folder(tmp_path, 8081)), log_level="debug", port=None)) as read:
        read.begin()
        settings = read()
        assert read.pid is None
        assert settings == load_config(tmp_path, log_level="debug")
        folder(tmp_path, 8082)
        assert read().port == 8082


@pytest.mark.usefixtures("environ")
def test_reloads_in_a_row_are_read_by_one_process_and_the_next_one_by_another(tmp_path: Path) -> None:
    with closing(Reader(str(folder(tmp_path, 8081)))) as read:
        read()
        first = read.pid
        read()
        assert first == read.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert read().port == 8081
        assert read.pid not in (None, first)
    assert read.pid is None


@pytest.mark.usefixtures("environ")
def test_problems_and_hint_are_those_of_load_config(tmp_path: Path) -> None:
    for name in ("route.toml", "provider.toml"):
        (folder(tmp_path, 0) / name).touch()
    for path in (str(tmp_path), str(tmp_path / "nowhere"), None):
        with closing(Reader(path)) as read, pytest.raises(ConfigError) as told:
            read()
        with pytest.raises(ConfigError) as loaded:
            load_config(path)
        assert (told.value.problems, told.value.hint) == (loaded.value.problems, loaded.value.hint)


@pytest.mark.usefixtures("environ")
def test_the_demo_needs_no_files() -> None:
    with closing(Reader(demo=True, port=8085)) as read:
        settings = read()
    assert (settings.port, settings.routes[0].name) == (8085, "demo")


def test_a_defect_is_told_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    found = reader.read(Wish(None, True, {"no_such_option": 1}, 0.0))
    assert found == Found(defect="internal error (TypeError)")
    assert "no_such_option" in caplog.text


@pytest.mark.usefixtures("environ")
def test_a_defect_is_no_configuration() -> None:
    with closing(Reader(demo=True, no_such_option=1)) as read, pytest.raises(GatewayError, match="cannot be read: int"):
        read()


@pytest.mark.usefixtures("environ")
def test_a_process_that_is_asked_no_more_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "KEEP_S", 0.05)
    with closing(Reader(demo=True)) as read:
        read()
        assert read.pid is not None
        ended = os.waitid(os.P_PID, read.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_EXITED, 0)
        # Whoever asks now is answered by another.
        assert read().routes[0].name == "demo"


def test_without_a_process_there_is_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(GatewayError, match="cannot start a process"):
        Reader(demo=True)()


@pytest.mark.usefixtures("environ")
def test_a_file_that_cannot_be_read_to_its_end_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "one.toml"
    os.mkfifo(pipe)
    with (
        closing(Reader(str(pipe), timeout_s=0.2)) as read,
        pytest.raises(GatewayError, match=r"was not read within 0\.2 s"),
    ):
        read()
    assert read.pid is None


@pytest.mark.usefixtures("environ")
def test_a_reading_that_is_stopped_ends(tmp_path: Path) -> None:
    pipe = tmp_path / "one.toml"
    os.mkfifo(pipe)
    read = Reader(str(pipe))
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read)
        with pipe.open("wb"):  # it is in the middle of it
            read.stop()
            with pytest.raises(GatewayError, match="ended"):
                reading.result(10)
