"""Shared parts of the commands: options, loading the configuration, calls to a running gateway, and error output."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from budgateway.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from budgateway.records import Settings

Command = TypeVar("Command", bound=Callable[..., object])

# sysexits.h EX_CONFIG would be 78; every CI understands 1, and click uses 2 for a wrong command line.
EXIT_CONFIG = 1


def config_option(command: Command) -> Command:
    """Add `--config PATH`, the same for every command."""
    return click.option(
        "-c",
        "--config",
        "path",
        metavar="PATH",
        help="A folder with gateway.toml, routes.toml and providers.toml, or one TOML file. "
        "Default: ./config, else the environment only.",
    )(command)


def reaching(command: Command) -> Command:
    """Add the options that select a running gateway, the same for every command."""
    for option in (
        click.option(
            "--token",
            metavar="TOKEN",
            help="With --url: a token or key with the role admin.  [env: BUDGATEWAY_TOKEN]",
            envvar="BUDGATEWAY_TOKEN",
        ),
        click.option(
            "--url",
            metavar="URL",
            help="URL of a gateway, such as https://host:8080.  Default: the one that this user runs on this machine.",
        ),
        click.option("--port", type=int, help="Port of the gateway, if several run on this machine."),
    ):
        command = option(command)
    return command


def load(path: str | None) -> Settings:
    """Load the configuration, or print every problem to stderr and exit."""
    from budgateway.config.load import load_config

    try:
        return load_config(path)
    except ConfigError as error:
        refuse(error)


def ask(
    port: int | None,
    url: str | None,
    token: str | None,
    method: str,
    path: str,
    document: Mapping[str, object] | None = None,
) -> Any:
    """Return a running gateway's answer to a request; on an error, print it to stderr and exit with status 1."""
    from budgateway.admin.client import AdminClient, Unreachable, local_gateway

    check_reaching(port, url, token)
    try:
        client = AdminClient(url=url, token=token or "") if url else AdminClient(admin=local_gateway(port).admin)
        status, answer = client.call(method, path, document)
    except Unreachable as error:
        click.echo(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), err=True)
        sys.exit(1)
    if status < 300:
        return answer
    told = answer.get("error", {}) if isinstance(answer, dict) else {}
    if problems := told.get("problems"):
        refuse(ConfigError(problems))
    click.echo(f"error: {status} {told.get('message', '')}".rstrip(), err=True)
    sys.exit(1)


def check_reaching(port: int | None, url: str | None, token: str | None) -> None:
    """Raise UsageError for options of `reaching` that contradict each other. An unused BUDGATEWAY_TOKEN variable does
    not count."""
    if url and port is not None:
        raise click.UsageError(
            "--port chooses among the gateways of this machine, --url names one: leave one of them out"
        )
    given = click.get_current_context().get_parameter_source("token") is ParameterSource.COMMANDLINE
    if token and given and not url:
        raise click.UsageError(
            "--token goes with --url: a gateway on this machine is reached by its socket, without a token"
        )


def refuse(error: ConfigError) -> NoReturn:
    """Print the problems of a configuration to stderr and exit."""
    count = len(error.problems)
    click.echo(
        click.style(f"error: {count} problem{'s' if count != 1 else ''} in the configuration", fg="red"), err=True
    )
    for problem in error.problems:
        click.echo(f"  {problem}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    sys.exit(EXIT_CONFIG)


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: `1 route`, `2 routes`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"


def console() -> Console:
    """Return a console as wide as the terminal; for a pipe, 200 columns without colour."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200, no_color=True)


def escaped(text: str) -> str:
    """Escape rich's markup in a text of the configuration."""
    from rich.markup import escape

    return escape(text)
