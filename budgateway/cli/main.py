"""The command line: serve, check, routes, status, reload, schema, version; `access.py` has token, keys, check-access."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from budgateway.cli.access import check_access, keys, token
from budgateway.cli.terminal import EXIT_CONFIG, ask, config_option, console, counted, escaped, load, reaching, refuse
from budgateway.config.reader import Reader
from budgateway.errors import ConfigError, GatewayError
from budgateway.system.signals import hold

if TYPE_CHECKING:
    from budgateway.records import Route, Settings
    from budgateway.routing.table import RouteTable

LEVELS = ("trace", "debug", "info", "warn", "warning", "error", "fatal", "critical")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, invoke_without_command=True
)
@click.version_option(None, "-V", "--version", package_name="budgateway", message="budgateway %(version)s")
@click.option("--validate-config", is_flag=True, help="Check the configuration and exit, as `check` does.")
@click.option(
    "-c", "--config", "path", metavar="PATH", help="With --validate-config: the configuration, as for `check`."
)
@click.pass_context
def cli(context: click.Context, validate_config: bool, path: str | None) -> None:
    """A gateway for model inference: one address in front of vLLM, SGLang, LiteLLM, OpenAI and their kin."""
    if context.invoked_subcommand is not None:
        if validate_config:
            raise click.UsageError(f"--validate-config is a separate command: leave out {context.invoked_subcommand!r}")
        if path is not None:
            raise click.UsageError(f"--config goes after the command: budgateway {context.invoked_subcommand} --config")
    elif validate_config:
        summarise(load(path))
    elif path is not None:
        raise click.UsageError("--config needs a command, such as `serve` or `check`")
    else:
        click.echo(context.get_help(), err=True)
        context.exit(2)


for command in (token, keys, check_access):
    cli.add_command(command)


@cli.command(short_help="Run the gateway.")
@config_option
@click.option("--host", help="Address to listen on.  [env: GATEWAY_HOST]")
@click.option("--port", type=int, help="Port to listen on.  [env: GATEWAY_PORT]")
@click.option("--workers", type=int, help="Data-plane processes.  [env: WORKERS]")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS, case_sensitive=False),
    help="Level of the gateway's own log.  [env: LOG_LEVEL]",
)
@click.option("--demo", is_flag=True, help="Serve the embedded demo model; needs no configuration.")
@click.option("--watch", is_flag=True, help="Reload when a file of the configuration changes.")
@click.option(
    "--take-over",
    is_flag=True,
    help="Take over from the gateway that runs on this port, without refusing a connection.",
)
@click.option("--validate-config", is_flag=True, help="Check the configuration and exit, as `check` does.")
def serve(
    path: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    log_level: str | None,
    demo: bool,
    watch: bool,
    take_over: bool,
    validate_config: bool,
) -> None:
    """Run the gateway until SIGINT or SIGTERM. SIGHUP reloads the configuration, SIGUSR2 replaces the workers."""
    if demo and path is not None:
        raise click.UsageError("--demo brings its own configuration: leave out --config")
    if demo and watch:
        raise click.UsageError("--demo brings its own configuration: there is no file for --watch")
    options: dict[str, Any] = {"host": host, "port": port, "workers": workers, "log_level": log_level}
    if watch:
        options["watch"] = True
    read = Reader(path, demo=demo, **options)
    try:
        read.begin()
        from budgateway.process import supervisor  # while the reader's process works

        settings = read()
    except ConfigError as error:
        refuse(error)
    except GatewayError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    if validate_config:
        summarise(settings)
        return
    sys.exit(supervisor.run(settings, demo=demo, load=read, stop_loading=read.stop, take_over=take_over))


@cli.command(short_help="Check the configuration; report every problem.")
@config_option
def check(path: str | None) -> None:
    """Check the configuration; report every problem at once, with exit status 1 when there is any."""
    summarise(load(path))


@cli.group(invoke_without_command=True, short_help="Show the routes; `routes match` finds the one that answers.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.pass_context
def routes(context: click.Context, path: str | None, as_json: bool) -> None:
    """Show the routes, or which of them answers a request (`routes match`)."""
    context.obj = path
    if context.invoked_subcommand is not None:
        return
    settings = load(path)
    if as_json:
        click.echo(json.dumps([route_facts(route) for route in settings.routes], indent=2))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("route", "methods", "host", "path", "models", "provider", "balance", "auth"):
        table.add_column(column, overflow="fold")
    for route in settings.routes:
        facts = [route.name, ", ".join(route.methods) or "any", route.host or "any", route.path]
        facts += [", ".join(route.models) or "any", ", ".join(route.answerers()), route.load_balancer]
        table.add_row(*map(escaped, facts), "required" if route.auth_required else "none")
    console().print(table)


@routes.command("match", short_help="Print the route that answers METHOD PATH.")
@click.argument("method")
@click.argument("target", metavar="PATH")
@click.option("--model", help="The model that the body names.")
@click.option("--host", default="", help="The host that the client requests.")
@click.option("--header", "header_lines", multiple=True, metavar="NAME=VALUE", help="A request header; repeatable.")
@click.option(
    "--body",
    "body_file",
    type=click.File("rb"),
    metavar="FILE",
    help="The request's body (- for standard input): with --explain, print what transformation rules make of it.",
)
@click.option("--role", "roles", multiple=True, help="A role of the principal, for transformation rules; repeatable.")
@click.option("--tenant", default="", help="The principal's tenant, for transformation rules.")
@click.option(
    "--explain",
    is_flag=True,
    help="Also print the verdict of each route, in order of preference, and what the upstream would be sent.",
)
@click.option("-c", "--config", "path", metavar="PATH", help="The configuration, as for `routes`.")
@click.pass_context
def match_route(
    context: click.Context,
    method: str,
    target: str,
    model: str | None,
    host: str,
    header_lines: tuple[str, ...],
    body_file: IO[bytes] | None,
    roles: tuple[str, ...],
    tenant: str,
    explain: bool,
    path: str | None,
) -> None:
    """Print the route that answers METHOD PATH; exit status 1 when none does."""
    headers: list[tuple[str, str]] = []
    for line in header_lines:
        name, found, value = line.partition("=")
        if not found or not name:
            raise click.BadParameter(f"{line!r} is not NAME=VALUE", param_hint="--header")
        headers.append((name.strip(), value.strip()))
    from budgateway.routing.builtin import OWN_PROVIDER, own_routes
    from budgateway.routing.shape import explain as explain_shape
    from budgateway.routing.table import RouteTable

    body = None if body_file is None else body_file.read()
    if body is not None and model is None:
        model = model_of(body)
    settings = load(path if path is not None else context.obj)
    table = RouteTable([*settings.routes, *(route for route, _ in own_routes(settings.routes))])
    found_route = table.match(method, target, model=model, host=host, headers=headers)
    if explain:
        print_matches(table, method, target, model, host, headers)
    if found_route is None:
        click.echo(f"no route answers {method.upper()} {target}" + (f" for model {model!r}" if model else ""), err=True)
        sys.exit(1)
    if found_route.provider == OWN_PROVIDER:
        click.echo("route     none of the configuration: the gateway answers this itself")
        click.echo(f"reason    {found_route.reason}")
        return
    click.echo(f"route     {found_route.route.name}")
    provider = next(provider for provider in settings.providers if provider.name == found_route.provider)
    click.echo(f"provider  {found_route.provider}")
    for what, how in explain_shape(found_route.route, headers):
        click.echo(f"{what:<9} {how}")
    for name, value in found_route.params.items():
        click.echo(f"param     {name} = {value}")
    if model is not None and (told := provider.upstream_model(model)) != model:
        click.echo(f"model     {model} -> {told}")
    click.echo(f"reason    {found_route.reason}")
    if explain:
        from budgateway.cli.explain import explain_request
        from budgateway.records import Principal

        principal = Principal("PRINCIPAL", tenant=tenant, roles=roles, anonymous=False)
        explain_request(settings, found_route.route, provider, headers, (method, target, host), body, principal)


@cli.command(short_help="Show a running gateway.")
@reaching
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def status(port: int | None, url: str | None, token: str | None, as_json: bool) -> None:
    """Show a running gateway: its workers, rates and upstreams."""
    facts = ask(port, url, token, "GET", "/admin/stats")
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    from budgateway.cli.report import print_status

    print_status(console(), facts)


@cli.command(short_help="Watch a running gateway.")
@reaching
@click.option("--once", is_flag=True, help="Print one frame and end.")
def top(port: int | None, url: str | None, token: str | None, once: bool) -> None:
    """Watch a running gateway: its numbers, once a second, until Ctrl-C."""
    from budgateway.cli.top import show

    show(console(), lambda: ask(port, url, token, "GET", "/admin/stats"), once=once)


@cli.command(short_help="Reload the configuration of a running gateway.")
@reaching
def reload(port: int | None, url: str | None, token: str | None) -> None:
    """Reload the configuration of a running gateway; print the difference, or every problem."""
    changed = ask(port, url, token, "POST", "/admin/reload-config")
    for kind in ("routes", "providers", "upstreams"):
        for sign, names in (("+", changed[kind]["added"]), ("-", changed[kind]["removed"])):
            for name in names:
                click.echo(f"{sign} {kind[:-1]} {name}")
        for entry in changed[kind]["changed"]:
            click.echo(f"~ {kind[:-1]} {entry['name']}: {', '.join(entry['fields'])}")
    for entry in changed["settings"]:
        click.echo(f"~ {entry['name']}: {json.dumps(entry['before'])} -> {json.dumps(entry['after'])}")
    click.echo("reloaded" if changed["changed"] else "reloaded: nothing changed")


@cli.command(short_help="Print the configuration's JSON Schema.")
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from budgateway.config.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@cli.command(short_help="Print versions and the kind of build.")
def version() -> None:
    """Print the versions of package, compiled core, Python and event loop."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    import budgateway
    from budgateway import native

    try:
        loop = f"uvloop {installed('uvloop')}"
    except PackageNotFoundError:
        loop = "asyncio"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    click.echo(f"budgateway {budgateway.__version__}")
    click.echo(f"native     ABI {native.ABI}, {native.BUILD_PROFILE} build")
    click.echo(f"protocols  {flavour()}")
    click.echo(f"python     {python} on {platform.system()} {platform.machine()}")
    click.echo(f"loop       {loop}")


def main() -> None:
    """Run the command line; `__main__` is the console script."""
    hold(sys.argv[1:])
    try:
        cli.main(prog_name="budgateway")
    except ImportError as error:
        # native.py refuses a core that was built for another version of this package; its message has the remedy.
        if "budgateway" not in str(error):
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_CONFIG)


# ---------------------------------------------------------------- shared by the commands


def summarise(settings: Settings) -> None:
    """Print one line that confirms the configuration, and a line for each notice."""
    upstreams = sum(len(provider.upstreams) for provider in settings.providers)
    facts = [
        counted(len(settings.routes), "route"),
        counted(len(settings.providers), "provider"),
        counted(upstreams, "upstream"),
    ]
    source = f" ({', '.join(settings.sources)})" if settings.sources else ""
    click.echo(click.style("ok", fg="green") + f": {', '.join(facts)}{source}")
    for notice in settings.notices:
        click.echo(click.style("note: ", fg="yellow") + notice)


def route_facts(route: Route) -> dict[str, object]:
    """Return a route's entry in `routes --json`."""
    from budgateway.routing.shape import explain

    return {
        "name": route.name,
        "methods": list(route.methods),
        "host": route.host,
        "path": route.path,
        "models": list(route.models),
        "headers": dict(route.headers),
        "priority": route.priority,
        "provider": route.provider,
        "shaping": dict(explain(route, [])),
        "load_balancer": route.load_balancer,
        "rate_limit": route.rate_limit,
        "burst_capacity": route.rate_burst,
        "auth_required": route.auth_required,
    }


def model_of(body: bytes) -> str | None:
    """Return the model that a body names."""
    from budgateway.native import Peeker

    try:
        return Peeker().peek(body).model
    except GatewayError as error:
        raise click.BadParameter(str(error), param_hint="--body") from None


def print_matches(
    table: RouteTable, method: str, target: str, model: str | None, host: str, headers: list[tuple[str, str]]
) -> None:
    """Print every route's match and mark the route that answers. The gateway's own routes are printed only when they
    match."""
    from budgateway.routing.builtin import OWN_PROVIDER

    answered = False
    for found in table.explain(method, target, model=model, host=host, headers=headers):
        if found.route.provider == OWN_PROVIDER and not found.matched:
            continue
        mark = "-"
        if found.matched:
            mark = "+" if answered else ">"
            answered = True
        click.echo(f"{mark} {found.route.name}: {found.why}")
    click.echo()


def flavour() -> str:
    """Describe whether the `_cy` modules of this installation are compiled."""
    folder = Path(__file__).parents[1]
    modules = list(folder.rglob("*_cy.py"))
    compiled = [path for path in modules if any(path.parent.glob(f"{path.stem}.*.so"))]
    if not modules or not compiled:
        return "interpreted (pure)" if modules else "none"
    return "compiled" if len(compiled) == len(modules) else f"{len(compiled)} of {len(modules)} compiled"
