"""Finding and reading the configuration: a directory with three files, one TOML file, or only the environment."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from budgateway.config import environment
from budgateway.config.assemble import settings_from
from budgateway.config.problems import Problems, did_you_mean
from budgateway.config.resolve import Resolver
from budgateway.config.schema import TABLES
from budgateway.config.schema_auth import AuthConfig
from budgateway.config.source import FILES, Source
from budgateway.errors import ConfigError
from budgateway.records import Secret, Settings

DEFAULT_FOLDER = Path("config")
NOTHING_HINT = (
    "try `budgateway serve --demo`; or set VLLM_ENDPOINTS, SGLANG_ENDPOINTS, LITELLM_ENDPOINT or OPENAI_API_KEY; "
    "or name a folder or a file with --config PATH"
)


def load_config(
    path: str | Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    log_level: str | None = None,
    watch: bool | None = None,
) -> Settings:
    """Read, check and resolve a whole configuration.

    `path` is a directory with gateway.toml, routes.toml and providers.toml (any of them), or one TOML file. Without it,
    ./config is read if it exists, else only the environment. `environ` defaults to the process's environment and
    ./.env. Variables override files; `host`, `port`, `workers`, `log_level` and `watch` override both. Raises
    ConfigError with every problem at once. Blocks: reads files.
    """
    if environ is None:
        environ = environment.variables(Path(".env"))
    source = _read(path, environ)
    for key, value in (
        ("host", host),
        ("port", port),
        ("workers", workers),
        ("log_level", log_level),
        ("watch", watch),
    ):
        if value is not None:
            source.override("gateway", key, value, f"--{key.replace('_', '-')}")
    return settings_from(source, environ)


def signing_secret(
    path: str | Path | None = None, *, environ: Mapping[str, str] | None = None
) -> tuple[Secret | None, int]:
    """Return the secret that signs tokens, or None, and the lifetime of a token in seconds.

    Both come from the same sources as in `load_config`, but the rest of the configuration may be absent or wrong: a
    machine that creates tokens need not run a gateway. Raises ConfigError when these two are wrong, or `path` cannot be
    read.
    """
    if environ is None:
        environ = environment.variables(Path(".env"))
    try:
        source = _read(path, environ)
    except ConfigError:
        if path is not None:
            raise
        source = Source()
    environment.apply(source, environ)
    written = source.tables.get("auth")
    keys = ("jwt_secret", "jwt_expiration")
    table = {key: written[key] for key in keys if key in written} if isinstance(written, dict) else {}
    problems = Problems(source.places, source.variables)
    auth = AuthConfig()
    try:
        auth = AuthConfig.model_validate(table)
    except ValidationError as error:
        problems.add_invalid(("auth",), AuthConfig, error)
    secret = Resolver(problems, environ, source).jwt_secret(auth.jwt_secret)
    if secret is None and source.incomplete:
        problems.lines.extend(source.problems)  # the secret may be in an unreadable file
    if problems.lines:
        raise ConfigError(problems.lines)
    return secret, auth.jwt_expiration


def _read(path: str | Path | None, environ: Mapping[str, str]) -> Source:
    if path is None:
        try:
            if any((DEFAULT_FOLDER / name).is_file() for name in FILES):
                return _read_folder(DEFAULT_FOLDER)
        except OSError as error:  # a missing directory is no error
            raise _unreadable(DEFAULT_FOLDER, error) from error
        if environment.described(environ):
            return Source(alone=True)
        raise ConfigError(
            [
                "no configuration: there is no ./config with TOML files, and no variable names an upstream",
                *environment.near_misses(environ),
            ],
            hint=NOTHING_HINT,
        )
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path)
        exists = path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError:
        exists = False
    if not exists:
        raise ConfigError([f"{path}: no such file or folder"], hint=NOTHING_HINT)
    source = Source(folder=path.parent)
    _read_file(source, path)
    return source


def _unreadable(path: Path, error: OSError) -> ConfigError:
    """Return the error for a file or directory that cannot be accessed."""
    return ConfigError([f"{path}: {(error.strerror or 'cannot be read').lower()}"], hint=NOTHING_HINT)


def _read_folder(folder: Path) -> Source:
    source = Source(folder=folder)
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        source.broken(str(folder), f"holds none of {', '.join(FILES)}")
    for file in found:
        _read_file(source, file)
    for other in sorted(folder.glob("*.toml")):
        if other.name in FILES:
            continue
        # `gateway` and `routes` resemble many words: suggest only near-identical names.
        suggestion = did_you_mean(other.name, FILES, cutoff=0.85)
        if suggestion:
            source.problems.append(f"{other.name}: not a file of the configuration{suggestion}")
        else:
            source.notices.append(f"{other.name} is not read: a folder's files are {', '.join(FILES)}")
    return source


def _read_file(source: Source, file: Path) -> None:
    """Add a file's tables to the source. When it cannot be read, note that as a problem; its tables stay unknown."""
    source.files.append(str(file))
    source.look_at(file)
    try:
        tables = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        source.broken(file.name, (error.strerror or "cannot be read").lower())
        return
    except RecursionError:
        source.broken(file.name, "nested too deeply")
        return
    except UnicodeDecodeError:
        source.broken(file.name, "not UTF-8 text")
        return
    except ValueError as error:  # tomllib's own, and int()'s for a number of thousands of digits
        message = str(error)
        source.broken(file.name, f"not TOML: {message[:1].lower()}{message[1:]}")
        return
    for name, table in tables.items():
        if name in source.tables:
            source.problems.append(f"{file.name}: {name}: is in {source.places[(name,)]} already")
            continue
        if name not in TABLES:
            source.problems.append(f"{file.name}: {name}: unknown table{did_you_mean(name, TABLES)}")
            continue
        source.tables[name] = table
        source.places[(name,)] = file.name
