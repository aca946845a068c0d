"""Nothing in the working directory runs as the gateway."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from integration.gateways import write_configuration
from integration.processes import running
from ports import free_port

from budgateway.system import interpreter

# Of every process: imported early, late, and only for one setting.
THIRD_PARTY = ("click", "dotenv", "hiredis", "httptools", "jwt", "prometheus_client", "pydantic", "rich", "uvloop")
STANDARD = ("argparse", "asyncio", "ctypes", "faulthandler", "logging", "pickle", "socket", "struct", "tomllib")


def _console_script(folder: Path) -> list[str]:
    script = folder / "budgateway"
    script.write_text("import sys\nfrom budgateway.__main__ import main\nsys.exit(main())\n")
    return [sys.executable, str(script)]


def _serves(folder: Path, command: list[str], trapped: Path, env: dict[str, str] | None = None) -> None:
    config = folder / "config"
    config.mkdir()
    port = free_port()
    write_configuration(config, port, ["http://127.0.0.1:9"], "openai", {}, {}, {"workers": 1}, ("/v1/*",), "")
    with running([*command, "serve", "--config", config], env, trapped) as server:
        server.url = f"http://127.0.0.1:{port}"
        server.wait_for("/readyz")
        assert "Traceback" not in server.output


def _trap(folder: Path, names: tuple[str, ...]) -> tuple[Path, Path]:
    """A working directory in which each of these modules leaves a mark."""
    trapped, mark = folder / "trapped", folder / "executed"
    trapped.mkdir()
    for name in names:
        (trapped / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name} ')\nraise SystemExit(3)\n")
    return trapped, mark


@pytest.mark.integration
def test_the_command_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    trapped, mark = _trap(tmp_path, (*THIRD_PARTY, *STANDARD))
    _serves(tmp_path, _console_script(tmp_path), trapped)
    assert not mark.exists(), mark.read_text()


@pytest.mark.integration
def test_the_module_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    trapped, mark = _trap(tmp_path, THIRD_PARTY)
    _serves(tmp_path, [sys.executable, "-m", "budgateway"], trapped)
    assert not mark.exists(), mark.read_text()


@pytest.mark.integration
def test_an_empty_part_of_pythonpath_is_not_the_working_directory(tmp_path: Path) -> None:
    trapped, mark = _trap(tmp_path, THIRD_PARTY)
    _serves(tmp_path, _console_script(tmp_path), trapped, {"PYTHONPATH": ":/nonexistent"})
    assert not mark.exists(), mark.read_text()


@pytest.mark.integration
def test_a_checkout_as_working_directory_is_not_the_installation(tmp_path: Path) -> None:
    trapped, mark = _trap(tmp_path, ())
    package = trapped / "budgateway"
    package.mkdir()
    # Sources without the compiled core, as after a clone.
    (package / "__init__.py").write_text(f"open({str(mark)!r}, 'a').write('budgateway ')\nraise SystemExit(3)\n")
    _serves(tmp_path, _console_script(tmp_path), trapped)
    assert not mark.exists(), mark.read_text()


def test_a_child_keeps_the_absolute_parts_of_pythonpath() -> None:
    assert interpreter.environment({"PYTHONPATH": "/opt/a:.::lib:/opt/b", "A": "1"}) == {
        "PYTHONPATH": "/opt/a:/opt/b",
        "A": "1",
    }
    assert interpreter.environment({"PYTHONPATH": ":."}) == {}


def test_options_of_the_interpreter_are_kept(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "budgateway", "version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.startswith("budgateway ")
    assert "budgateway.cli.main" in done.stderr
