"""`routes match --explain`: the transformation rules of a request, and what its upstream would be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from budgateway.app.wiring import secrets_of, targets_of
from budgateway.errors import GatewayError
from budgateway.exchange.exchange_cy import Exchange
from budgateway.kinds import KINDS
from budgateway.native import Peeker, RequestHead
from budgateway.providers.registry import adapters_of, spoken_dialects
from budgateway.records import Principal
from budgateway.transform.stages import of_provider, of_route
from budgateway.wire.dialects import RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budgateway.records import Provider, Route, Settings
    from budgateway.transform.bodies import Edited


class Sketch:
    """A stand-in for a compiled route, of which the explanation needs only the name."""

    def __init__(self, name: str) -> None:
        self.name = name


def explain_request(
    settings: Settings,
    route: Route,
    provider: Provider,
    head_lines: Sequence[tuple[str, str]],
    asked: tuple[str, str, str],
    body: bytes | None,
    principal: Principal,
) -> None:
    """Print the rules that concern a request, the body after each, and what an upstream of the provider would be sent.
    `asked` is the method, the target and the host."""
    x = exchange_of(route, head_lines, asked, body, principal)
    own = of_route(settings.transforms, route)
    rules = of_provider(settings.transforms, route, provider, spoken_dialects(provider, KINDS[provider.kind]))
    try:
        if own is not None and x.body is not None:
            print_steps(own.explain(x, x.body), "before limits")
            own.request(x)
        adapter = adapters_of(provider, KINDS[provider.kind])[x.dialect]
        adapter.request(x)
        if rules is not None:
            if x.send_body is not None:
                print_steps(rules.explain(x, x.send_body), f"for {provider.name}")
            rules.request(x)
    except GatewayError as error:
        click.echo(f"refused   {error.status} {error.code}: {error}")
        return
    if rules is not None:
        for name in rules.answer_names(x):
            click.echo(f"answer    {name}")
    target = targets_of(provider, {})[0]
    data = target.write_head(x.head, "REQUEST-ID", -1 if x.send_body is None else len(x.send_body), x.head_edits)
    text = data.decode("latin-1")
    for secret in secrets_of(settings):
        text = text.replace(secret, "***")
    click.echo(f"sends     to {target.upstream.url}")
    for line in text.split("\r\n"):
        if line:
            click.echo(f"  {line}")
    if x.send_body is not None:
        click.echo(f"\n  {x.send_body.decode('utf-8', 'replace')}")
    click.echo()


def exchange_of(
    route: Route,
    head_lines: Sequence[tuple[str, str]],
    asked: tuple[str, str, str],
    body: bytes | None,
    principal: Principal,
) -> Exchange:
    """Return an exchange as it is when its route has been found."""
    method, target, host = asked
    given = {name.lower() for name, _ in head_lines}
    lines = [("host", host or "localhost"), *head_lines]
    if body is not None:
        lines.append(("content-length", str(len(body))))
        if "content-type" not in given:
            lines.append(("content-type", "application/json"))
    text = f"{method.upper()} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
    head = RequestHead.parse(text.encode("latin-1", "replace") + b"\r\n")
    if head is None:
        raise click.BadParameter("these make no request", param_hint="METHOD PATH --header")
    x = Exchange(head, None, "127.0.0.1", 0)
    x.flags = head.flags
    x.dialect = dialect_of(head)
    x.request_id = "REQUEST-ID"
    x.body = body
    x.body_done = True
    x.principal = principal
    x.route = Sketch(route.name)
    if body is not None:
        try:
            x.peek = Peeker().peek(body)
        except GatewayError as error:
            raise click.BadParameter(str(error), param_hint="--body") from None
        x.model = x.peek.model or ""
        x.streams = x.peek.stream
    return x


def dialect_of(head: RequestHead) -> int:
    """Return the number of a request's dialect."""
    from array import array

    from budgateway.native import FACTS, HeadReader

    return HeadReader(array("q", bytes(8 * FACTS)), [], RULES).dialect(head)


def print_steps(steps: Sequence[Edited], where: str) -> None:
    """Print the body after each rule."""
    for step in steps:
        if step.has_held:
            click.echo(f"transform {step.rule} ({where})")
            click.echo(f"  {step.body.decode('utf-8', 'replace')}")
        else:
            click.echo(f"transform {step.rule} ({where}): its condition does not hold")
