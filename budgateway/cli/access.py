"""Access commands of the command line: tokens, API keys, and explanations of access decisions."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from budgateway.cli.terminal import (
    EXIT_CONFIG,
    Command,
    ask,
    check_reaching,
    config_option,
    console,
    escaped,
    load,
    reaching,
    refuse,
)
from budgateway.errors import ConfigError, GatewayError

if TYPE_CHECKING:
    from budgateway.credentials.api_keys import Changed, Keys
    from budgateway.credentials.keystore import KeyStore
    from budgateway.records import Principal, Settings

Result = TypeVar("Result")


@click.command(short_help="Print a token signed with JWT_SECRET.")
@config_option
@click.option("--sub", default="operator", show_default=True, help="The principal of the token.")
@click.option("--role", "roles", multiple=True, help="A role, such as admin; repeatable.")
@click.option("--group", "groups", multiple=True, help="A group; repeatable.")
@click.option("--tenant", help="The tenant.")
@click.option("--model", "models", multiple=True, help="A model it may use, name or glob; repeatable.  Default: any.")
@click.option(
    "--expires",
    type=click.IntRange(min=1, max=315_360_000),
    metavar="SECONDS",
    help="Lifetime of the token.  Default: jwt_expiration.",
)
def token(
    path: str | None,
    sub: str,
    roles: tuple[str, ...],
    groups: tuple[str, ...],
    tenant: str | None,
    models: tuple[str, ...],
    expires: int | None,
) -> None:
    """Print a token for the gateway, signed with its JWT_SECRET; no other part of the configuration is needed."""
    from budgateway.config.load import signing_secret
    from budgateway.jose.key import sign

    try:
        secret, expiration_s = signing_secret(path)
    except ConfigError as error:
        refuse(error)
    if secret is None:
        _fail("there is no JWT_SECRET to sign with (openssl rand -hex 32 makes one)")

    now = int(time.time())
    claims: dict[str, object] = {"sub": sub, "iat": now, "exp": now + (expires or expiration_s)}
    claims["roles"] = list(roles)
    claims |= {name: list(given) for name, given in (("groups", groups), ("models", models)) if given}
    if tenant:
        claims["tenant"] = tenant
    click.echo(sign(claims, secret.reveal().encode(errors="surrogateescape")))


# ---------------------------------------------------------------- keys


@click.group(short_help="Manage API keys.")
def keys() -> None:
    """Manage API keys: in the keys file of the configuration, or in a running gateway (--port; --url, --token)."""


def placed(command: Command) -> Command:
    """Add the options that locate the keys, the same for all key commands."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--file", "file", metavar="PATH", help="The keys file.  Default: [auth] keys_file."),
    ):
        command = option(command)
    return config_option(reaching(command))


def described(command: Command) -> Command:
    """Add the options for the fields of a key."""
    for option in (
        click.option("--note", help="A note for people."),
        click.option(
            "--budget-period",
            type=click.Choice(("day", "week", "month")),
            help="The period of --budget.  Default: month.",
        ),
        click.option(
            "--budget",
            type=click.FloatRange(min=0, min_open=True),
            metavar="USD",
            help="Dollars it may spend in a period.",
        ),
        click.option("--concurrency", type=click.IntRange(min=1), help="Requests in flight."),
        click.option("--tpm", type=click.IntRange(min=1), help="Tokens a minute, input and output."),
        click.option("--burst", type=click.IntRange(min=1), help="Burst above --rpm, in requests."),
        click.option("--rpm", type=click.IntRange(min=1), help="Requests a minute."),
        click.option("--expires", metavar="WHEN", help="Time of expiry: 2027-01-01, or 30d, 12h, 15m from now."),
        click.option("--model", "models", multiple=True, help="A model it may use, name or glob; repeatable."),
        click.option("--group", "groups", multiple=True, help="A group; repeatable."),
        click.option("--role", "roles", multiple=True, help="A role; repeatable."),
        click.option("--tenant", help="The tenant."),
    ):
        command = option(command)
    return command


@keys.command()
@click.argument("name")
@described
@placed
def create(name: str, **options: Any) -> None:
    """Create a key and print it. It is shown only now: the gateway stores its hash."""
    wishes = _wishes(options)
    made = _change(options, "POST", "", {"name": name, **wishes}, "create", name=name, wishes=wishes, now=time.time())
    _print_secret(made, options["as_json"])


@keys.command("list")
@placed
def list_keys(**options: Any) -> None:
    """List the keys."""
    from budgateway.credentials import api_keys

    if _is_elsewhere(options):
        found = _asked(options, "GET", "/admin/keys")["keys"]
    else:
        found = [api_keys.shown(key, time.time()) for key in _read(options)]
    if options["as_json"]:
        click.echo(json.dumps(found, indent=2))
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    columns = ("name", "state", "start", "tenant", "roles", "models", "expires", "note")
    for column in columns:
        table.add_column(column, overflow="fold")
    for key in found:
        table.add_row(*(escaped(_text(key.get(column, ""))) for column in columns))
    console().print(table)


@keys.command()
@click.argument("name")
@placed
def show(name: str, **options: Any) -> None:
    """Show a key, without its secret."""
    from budgateway.credentials import api_keys

    if _is_elsewhere(options):
        found = _asked(options, "GET", f"/admin/keys/{name}")
    else:
        found = api_keys.shown(_or_fail(partial(api_keys.named, _read(options), name)), time.time())
    _print_key(found, options["as_json"])


@keys.command()
@click.argument("name")
@described
@placed
def update(name: str, **options: Any) -> None:
    """Change a key; fields that are not given stay unchanged."""
    wishes = _wishes(options)
    made = _change(options, "PATCH", f"/{name}", wishes, "update", name=name, wishes=wishes, now=time.time())
    _print_key(made, options["as_json"])


@keys.command()
@click.argument("name")
@click.option(
    "--grace",
    type=click.IntRange(min=0),
    default=0,
    metavar="SECONDS",
    help="The old secret stays valid for this long.  Default: 0.",
)
@placed
def rotate(name: str, grace: int, **options: Any) -> None:
    """Give a key a new secret, and print it."""
    wishes = {"grace_s": grace}
    made = _change(options, "POST", f"/{name}/rotate", wishes, "rotate", name=name, grace_s=grace, now=time.time())
    _print_secret(made, options["as_json"])


@keys.command()
@click.argument("name")
@placed
def disable(name: str, **options: Any) -> None:
    """Disable a key: refuse it from now on."""
    made = _change(options, "POST", f"/{name}/disable", {}, "switch", name=name, disabled=True)
    _print_key(made, options["as_json"])


@keys.command()
@click.argument("name")
@placed
def enable(name: str, **options: Any) -> None:
    """Enable a disabled key."""
    made = _change(options, "POST", f"/{name}/enable", {}, "switch", name=name, disabled=False)
    _print_key(made, options["as_json"])


@keys.command()
@click.argument("name")
@placed
def delete(name: str, **options: Any) -> None:
    """Delete a key."""
    made = _change(options, "DELETE", f"/{name}", None, "delete", name=name)
    click.echo(json.dumps(made, indent=2) if options["as_json"] else f"deleted {made['name']}")


def _wishes(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields given on the command line as the document that the admin API takes."""
    wishes = {name: list(options[name]) for name in ("roles", "groups", "models") if options[name]}
    wishes |= {name: options[name] for name in ("tenant", "note", "expires") if options[name] is not None}
    limits = {
        field: options[name]
        for name, field in (
            ("rpm", "requests_per_minute"),
            ("burst", "burst"),
            ("tpm", "tokens_per_minute"),
            ("concurrency", "concurrency"),
            ("budget", "budget_usd"),
            ("budget_period", "budget_period"),
        )
        if options[name] is not None
    }
    return wishes | ({"limits": limits} if limits else {})


def _change(
    options: dict[str, Any], method: str, path: str, document: dict[str, Any] | None, operation: str, **given: Any
) -> dict[str, Any]:
    """Change a key in its storage or through a running gateway; return its document, with its secret when there is a
    new one."""
    if _is_elsewhere(options):
        answer: dict[str, Any] = _asked(options, method, f"/admin/keys{path}", document)
        return answer
    from budgateway.credentials import api_keys

    edit: Callable[[Keys], Changed] = partial(getattr(api_keys, operation), **given)
    changed = _at_store(options, lambda store: store.change(edit))[0]
    told = api_keys.shown(changed.key, time.time())
    return {**told, "secret": changed.secret} if changed.secret else told


def _is_elsewhere(options: dict[str, Any]) -> bool:
    """True when a running gateway has to be called. Raises UsageError for options that contradict each other."""
    check_reaching(options["port"], options["url"], options["token"])
    if not options["url"] and options["port"] is None:
        return False
    for option, value in (("--file", options["file"]), ("--config", options["path"])):
        if value is not None:
            raise click.UsageError(
                f"{option} names the storage of keys, --url and --port a gateway: leave one of them out"
            )
    return True


def _asked(options: dict[str, Any], method: str, path: str, document: dict[str, Any] | None = None) -> Any:
    return ask(options["port"], options["url"], options["token"], method, path, document)


def _read(options: dict[str, Any]) -> Keys:
    return _at_store(options, lambda store: store.read())


def _at_store(options: dict[str, Any], work: Callable[[KeyStore], Awaitable[Result]]) -> Result:
    """Run `work` on the key storage: the given file, else the configuration's."""
    from budgateway.credentials.keystore import FileKeys, opened

    settings = None if options["file"] else load(options["path"])

    async def run() -> Result:
        store: KeyStore | None = FileKeys(str(options["file"])) if settings is None else opened(settings)
        if store is None:
            _fail('the configuration has no key storage: write [auth] keys_file = "keys.json", or give --file')
        try:
            return await work(store)
        finally:
            await store.close()

    return _or_fail(lambda: asyncio.run(run()))


def _print_secret(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(key, indent=2))
        return
    click.echo(key["secret"])
    click.echo("note: the key is shown only now; the gateway stores its hash", err=True)


def _print_key(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(key, indent=2))
        return
    for name, value in key.items():
        click.echo(f"{name:<10} {_text(value)}")


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {given}" for name, given in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# ---------------------------------------------------------------- check-access


@click.command("check-access", short_help="Explain whether a request is allowed.")
@click.argument("method")
@click.argument("target", metavar="PATH")
@config_option
@click.option("--model", help="The model that the body names.")
@click.option("--host", default="", help="The host that the client requests.")
@click.option("--token", help="Check for this token's principal.")
@click.option("--key", help="Check for this API key's principal.")
@click.option("--role", "roles", multiple=True, help="Check for a principal with this role; repeatable.")
@click.option("--tenant", default="", help="Check for a principal of this tenant.")
def check_access(
    method: str,
    target: str,
    path: str | None,
    model: str | None,
    host: str,
    token: str | None,
    key: str | None,
    roles: tuple[str, ...],
    tenant: str,
) -> None:
    """Explain whether METHOD PATH is allowed; exit status 1 when not."""
    from budgateway.auth.roles import Decision, Roles, admin_action
    from budgateway.routing.builtin import own_routes
    from budgateway.routing.table import RouteTable

    settings = load(path)
    principal = _principal(settings, path, token, key, roles, tenant)
    who = "nobody" if principal is None else principal.id
    click.echo(f"principal  {who}" + (f" of tenant {principal.tenant}" if principal and principal.tenant else ""))
    if principal is not None:
        click.echo(f"roles      {', '.join(principal.roles) or 'none'}")
    method, bare = method.upper(), target.partition("?")[0]
    own = own_routes(settings.routes)
    found = RouteTable([*settings.routes, *(route for route, _ in own)]).match(method, target, model=model, host=host)
    if found is None:
        _fail(f"no route answers {method} {target}" + (f" for model {model!r}" if model else ""))
    access = next((access for route, access in own if route == found.route), None)
    if access is None:
        click.echo(f"route      {found.route.name}")
    else:
        click.echo("route      none of the configuration: the gateway answers this itself")
    if access == "models":
        allowed, why = _may_list(settings, principal)
    elif access in ("admin", "metrics"):
        action = "metrics" if access == "metrics" else admin_action(method, bare)
        click.echo(f"action     {action}")
        allowed, why, _ = (
            Decision(False, "it needs a credential" + (", except from this machine" if access == "metrics" else ""))
            if principal is None
            else Roles(settings.auth).profile(principal).may_operate(action)
        )
    elif not found.route.auth_required:
        allowed, why = True, "the route is open to anyone"
    elif principal is None:
        allowed, why = False, "it needs a credential"
    else:
        # Without --model, a request that usually has a body may name any model, and so may a WebSocket's frames.
        has_none = method in ("GET", "HEAD", "DELETE", "OPTIONS") and found.route.websocket is None
        seen = model or ("" if has_none else None)
        allowed, why, _ = Roles(settings.auth).profile(principal).may(found.route.name, method, seen)
    click.echo(f"decision   {'allowed' if allowed else 'denied'}: {why}")
    if not allowed:
        sys.exit(1)


def _may_list(settings: Settings, principal: Principal | None) -> tuple[bool, str]:
    """Decide whether the model list may be read: by every principal, and without one when some route is open."""
    if principal is not None:
        return True, "it lists the models that this principal may use"
    if any(not route.auth_required for route in settings.routes):
        return True, "it lists the models of open routes"
    return False, "it needs a credential"


def _principal(
    settings: Settings, path: str | None, token: str | None, key: str | None, roles: tuple[str, ...], tenant: str
) -> Principal | None:
    """Return the principal of the credential, or an invented one with the role or tenant; None without options."""
    from budgateway.records import Principal

    if sum(map(bool, (token, key, roles or tenant))) > 1:
        raise click.UsageError("give one of --token, --key, --role")
    if key:
        from budgateway.auth.keys import KeyRing

        found = KeyRing(_read({"file": None, "path": path})).find(key, time.time())
        if found is None:
            _fail("the key is unknown, disabled or expired")
        return found.principal
    if token:
        return _bearer(settings, token)
    return Principal("jwt:own:somebody", tenant, roles, anonymous=False) if roles or tenant else None


def _bearer(settings: Settings, token: str) -> Principal:
    from budgateway.app.wiring import issuers_of
    from budgateway.auth.bearer import Bearers, UnknownKey
    from budgateway.credentials.keysets import fetch_key_set
    from budgateway.jose.jws import Refused

    bearers = Bearers(issuers_of(settings))
    try:
        return bearers.verify(token, time.time()).principal
    except UnknownKey as error:
        issuer = next(issuer for issuer in settings.auth.issuers if issuer.name == error.issuer)
    except Refused as error:
        _fail(f"the token is refused: {error}")
    try:
        bearers.learn({issuer.name: asyncio.run(fetch_key_set(issuer))})
        return bearers.verify(token, time.time()).principal
    except (GatewayError, TimeoutError, ValueError) as error:
        _fail(f"the keys of issuer {issuer.name} are not available: {str(error) or 'no response in time'}")
    except Refused as error:
        _fail(f"the token is refused: {error}")


def _or_fail(work: Callable[[], Result]) -> Result:
    """Run `work`; on an error, print it to stderr and exit with status 1."""
    try:
        return work()
    except GatewayError as error:
        _fail(str(error))
    except OSError as error:
        why = error.strerror or str(error)
        _fail(f"the keys: {why[:1].lower()}{why[1:]}")
    except ValueError as error:
        _fail(f"the keys cannot be read: {error}")


def _fail(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(EXIT_CONFIG)
