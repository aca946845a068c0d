"""Delegation: limits what a principal can give to an API key to what the principal itself has."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from budgateway.auth.roles import fits
from budgateway.errors import Forbidden

if TYPE_CHECKING:
    from budgateway.auth.roles import Roles
    from budgateway.records import Allowance, ApiKey, Principal

_HINT = 'a key cannot have more rights than the credential that creates or changes it; admin = ["*"] can grant anything'
_RATES = ("requests_per_minute", "requests_per_hour", "requests_per_day", "tokens_per_minute", "tokens_per_day")
_AMOUNTS = (*_RATES, "concurrency", "budget_usd")


class Holder:
    """A principal with the admin action `keys`. `expires` is its credential's expiry (seconds since the epoch),
    infinite for a credential without one."""

    def __init__(self, principal: Principal, expires: float, roles: Roles) -> None:
        self._principal = principal
        self._expires = expires
        self._roles = roles
        self._is_free = roles.profile(principal).may_do_everything()

    def completed(self, wishes: Mapping[str, object]) -> Mapping[str, object]:
        """Return a new key's fields. A field that is missing, and would be unbounded, gets the holder's own value."""
        if self._is_free:
            return wishes
        mine = self._principal
        made = dict(wishes)
        if mine.tenant:
            made.setdefault("tenant", mine.tenant)
        if mine.models:
            made.setdefault("models", list(mine.models))
        # Whole seconds, the stored precision. An expired credential never gets here.
        if self._expires < float("inf") and made.get("expires") in (None, ""):
            made["expires"] = datetime.fromtimestamp(int(self._expires), UTC).isoformat()
        given = made.get("limits", {})
        if mine.allowance is not None and isinstance(given, dict):
            made["limits"] = {**_written(mine.allowance, given), **given}
        return made

    def check(self, key: ApiKey) -> None:
        """Raise Forbidden when the key would have more than its holder has."""
        if self._is_free:
            return
        mine = self._principal
        if key.tenant != mine.tenant:
            _refuse(f"the tenant '{key.tenant}'" if key.tenant else "no tenant")
        roles = self._roles.effective(mine.roles, mine.tenant)
        for role in self._roles.effective(key.roles, key.tenant):
            if role not in roles:
                _refuse(f"the role '{role}'")
        for group in key.groups:
            if group not in mine.groups:
                _refuse(f"the group '{group}'")
        if mine.models and not key.models:
            _refuse("all models")
        for model in key.models:
            if mine.models and not any(_covers(pattern, model) for pattern in mine.models):
                _refuse(f"the models '{model}'")
        if self._expires < float("inf") and not 0 < key.expires_s <= self._expires:
            _refuse("an expiry later than that of the credential in use")
        if mine.allowance is not None:
            _check_limits(key.allowance, mine.allowance)


def _written(mine: Allowance, given: Mapping[str, object]) -> dict[str, Any]:
    """Return the holder's limits in a key document's form, without the budget when `given` sets one."""
    named = dataclasses.asdict(mine)
    if "budget_usd" in given:
        named.pop("budget_usd")
    return {name: value for name, value in named.items() if value and (name != "budget_period" or mine.budget_usd)}


def _check_limits(given: Allowance | None, mine: Allowance) -> None:
    for name in _AMOUNTS:
        most, amount = getattr(mine, name), 0 if given is None else getattr(given, name)
        if most and not 0 < amount <= most:
            _refuse(f"{amount or 'unlimited'} {name}")
    if given is None:
        return
    if mine.budget_usd and given.budget_period != mine.budget_period:
        _refuse(f"a budget for each {given.budget_period}")
    rates = (mine.requests_per_minute, mine.requests_per_hour, mine.requests_per_day)
    if any(rates) and _burst(given) > _burst(mine):
        _refuse(f"a burst of {_burst(given)}")


def _burst(allowance: Allowance) -> int:
    """Return the burst; by default a tenth of the shortest-period rate, at least 1."""
    rate = allowance.requests_per_minute or allowance.requests_per_hour or allowance.requests_per_day
    return allowance.burst or max(1, rate // 10)


def _covers(pattern: str, given: str) -> bool:
    """True when a glob matches everything that another one matches. Some such pairs are missed, none is reported
    wrongly. A star covers any text, wildcards included; a question mark does not cover a star."""
    return pattern == given or (fits(pattern, given) and not ("?" in pattern and "*" in given))


def _refuse(what: str) -> NoReturn:
    raise Forbidden(f"you may not give a key {what}", hint=_HINT)
