"""API key operations, as pure functions over all keys, and the keys' stored form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil, floor
from typing import Any, NamedTuple

from budgateway.auth.keys import digest_of, new_secret, start_of
from budgateway.errors import BadRequest, GatewayError
from budgateway.records import MAX_FILL_S, Allowance, ApiKey

Keys = tuple[ApiKey, ...]

MAX_KEYS = 100_000  # every worker holds all of them: about 100 MB at that count
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_MAX_WORDS = 64  # roles, groups, models
_MAX_CHARS = 255
_VERSION = 1
_LIMITS = {field.name: field for field in dataclasses.fields(Allowance)}
_PERIODS = ("day", "week", "month")
# The configuration's bounds (config/schema_limits.py). 0 is refused: in the records it means "no limit", and its author
# may mean "nothing".
_MAX_COUNT = 1_000_000_000
_MAX_CONCURRENCY = 1_000_000
_MIN_USD, _MAX_USD = 1e-6, 1e7
_LATEST = 253_402_300_799.0  # the last second of the year 9999
_LONG_AGO = 1.0  # stored for an expiry before 1970: 0 is "no expiry" in the records


class KeyUnknown(GatewayError):
    """No key has that name."""

    status = 404
    code = "key_unknown"
    type = "invalid_request_error"
    who = "downstream"


class KeyExists(GatewayError):
    """A key has that name already."""

    status = 409
    code = "key_exists"
    type = "invalid_request_error"
    who = "downstream"


class Changed(NamedTuple):
    """All keys after a change, the key that was changed, and its new secret, if any."""

    keys: Keys
    key: ApiKey
    secret: str = ""


def named(keys: Keys, name: str) -> ApiKey:
    """Return the key with this name. Raises KeyUnknown."""
    for key in keys:
        if key.name == name:
            return key
    raise KeyUnknown(f"no key is called '{name[:64]}'")


def create(keys: Keys, name: str, wishes: Mapping[str, object], now: float) -> Changed:
    """Add a new key. `wishes` are document fields (see `written`). Raises BadRequest for an invalid field or name,
    KeyExists for a name in use."""
    if not _NAME.fullmatch(name):
        raise BadRequest("a key's name is 1 to 64 letters, digits, '_', '.', '@' or '-'", param="name")
    if any(key.name == name for key in keys):
        raise KeyExists(f"a key is called '{name}' already")
    if len(keys) >= MAX_KEYS:
        raise BadRequest(f"there are {MAX_KEYS} keys already")
    secret = new_secret()
    key = _with(ApiKey(name, digest_of(secret), start_of(secret), created_s=float(int(now))), wishes, now)
    return Changed((*keys, key), key, secret)


def update(keys: Keys, name: str, wishes: Mapping[str, object], now: float) -> Changed:
    """Change a key's roles, models, limits or expiry; unnamed fields stay."""
    return _put(keys, _with(named(keys, name), wishes, now))


def rotate(keys: Keys, name: str, grace_s: float, now: float) -> Changed:
    """Give a key a new secret; the old one stays valid for `grace_s` seconds."""
    if not 0 <= grace_s <= 366 * 86_400:
        raise BadRequest("the grace period must be 0 seconds to 366 days", param="grace_s")
    until = float(ceil(now + grace_s))  # whole seconds, the stored precision
    key, secret = named(keys, name), new_secret()
    key = dataclasses.replace(
        key,
        digest=digest_of(secret),
        start=start_of(secret),
        old_digest=key.digest if grace_s else "",
        old_until_s=until if grace_s else 0.0,
    )
    return _put(keys, key)._replace(secret=secret)


def switch(keys: Keys, name: str, disabled: bool) -> Changed:
    """Disable a key, or enable it again."""
    return _put(keys, dataclasses.replace(named(keys, name), disabled=disabled))


def delete(keys: Keys, name: str) -> Changed:
    """Delete a key."""
    key = named(keys, name)
    return Changed(tuple(other for other in keys if other is not key), key)


# ---------------------------------------------------------------- documents


def shown(key: ApiKey, now: float) -> dict[str, Any]:
    """Return a key's document for display: its state, and every field except the hashes."""
    state = "disabled" if key.disabled else "expired" if key.expires_s and key.expires_s <= now else "active"
    told = {name: value for name, value in written(key).items() if "digest" not in name}
    return {"state": state, **told}


def written(key: ApiKey) -> dict[str, Any]:
    """Return a key's stored document; empty fields are omitted."""
    told: dict[str, Any] = {
        "name": key.name,
        "digest": key.digest,
        "start": key.start,
        "created": _written(key.created_s),
        "expires": _written(key.expires_s),
        "disabled": key.disabled,
        "tenant": key.tenant,
        "roles": list(key.roles),
        "groups": list(key.groups),
        "models": list(key.models),
        "limits": {} if key.allowance is None else _limits(key.allowance),
        "note": key.note,
        "old_digest": key.old_digest,
        "old_until": _written(key.old_until_s),
    }
    return {name: value for name, value in told.items() if value not in ("", [], {}, False, None)}


def read(document: Mapping[str, object]) -> ApiKey:
    """Parse a stored key. Raises ValueError when it is invalid."""
    given = dict(document)
    name = given.pop("name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("a key has no valid name")
    try:
        digest, start, old = (_text(given, word) for word in ("digest", "start", "old_digest"))
        if not all(re.fullmatch(r"[0-9a-f]{64}", text) for text in (digest, old or digest)):
            raise ValueError(f"the key '{name}' has an invalid digest")
        disabled = given.pop("disabled", False)
        if not isinstance(disabled, bool):
            raise BadRequest("disabled must be true or false", param="disabled")
        created, expires, until = (_kept(given.pop(word, "")) for word in ("created", "expires", "old_until"))
        key = ApiKey(name, digest, start, created, expires, disabled=disabled, old_digest=old, old_until_s=until)
        return _with(key, given, 0.0)
    except GatewayError as error:
        raise ValueError(f"the key '{name}': {error}") from error


def _text(given: dict[str, object], word: str) -> str:
    value = given.pop(word, "")
    if not isinstance(value, str):
        raise BadRequest(f"{word} must be text", param=word)
    return value


def _kept(value: object) -> float:
    """Parse a stored time. A time before 1970 is past, not "never"; years before 1000 were once stored without
    zeros."""
    if value in ("", None):
        return 0.0
    if isinstance(value, str) and (short := re.match(r"[0-9]{1,3}(?=-)", value)):
        value = value.zfill(len(value) + 4 - len(short[0]))
    return min(max(_moment(value), _LONG_AGO), _LATEST)


def book(keys: Keys) -> dict[str, Any]:
    """Return all keys as one document."""
    return {"version": _VERSION, "keys": [written(key) for key in keys]}


def keys_of(document: object) -> Keys:
    """Parse a document made by `book`. Raises ValueError when it is invalid."""
    if (
        not isinstance(document, dict)
        or document.get("version") != _VERSION
        or not isinstance(document.get("keys"), list)
    ):
        raise ValueError(f"it is not a keys file of version {_VERSION}")
    keys = tuple(read(entry) if isinstance(entry, dict) else _no_key() for entry in document["keys"])
    if len({key.name for key in keys}) != len(keys):
        raise ValueError("two keys have the same name")
    return keys


def _put(keys: Keys, key: ApiKey) -> Changed:
    return Changed(tuple(key if other.name == key.name else other for other in keys), key)


def _with(key: ApiKey, wishes: Mapping[str, object], now: float) -> ApiKey:
    """Return a copy of the key with some fields changed."""
    changes: dict[str, Any] = {}
    for name, value in wishes.items():
        if name in ("roles", "groups", "models"):
            changes[name] = _words(name, value)
        elif name in ("tenant", "note"):
            changes[name] = _word(name, value, empty=True)
        elif name == "expires":
            changes["expires_s"] = _end(value, now)
        elif name == "limits":
            changes["allowance"] = _allowance(value)
        else:
            raise BadRequest(f"a key has no '{name[:64]}'", param=name)
    return dataclasses.replace(key, **changes)


def _word(name: str, value: object, *, empty: bool = False) -> str:
    if not isinstance(value, str) or len(value) > _MAX_CHARS or not value.isprintable() or not (value or empty):
        raise BadRequest(f"{name} must be printable text of at most {_MAX_CHARS} characters", param=name)
    return value


def _words(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > _MAX_WORDS:
        raise BadRequest(f"{name} must be a list of at most {_MAX_WORDS} names", param=name)
    return tuple(dict.fromkeys(_word(name, item) for item in value))


def _allowance(value: object) -> Allowance | None:
    if not isinstance(value, dict):
        raise BadRequest("limits must be an object", param="limits")
    for name, given in value.items():
        if name not in _LIMITS:
            raise BadRequest(f"there is no limit '{str(name)[:64]}': one of {', '.join(_LIMITS)}", param="limits")
        if name == "budget_period":
            hint, good = f"one of {', '.join(_PERIODS)}", isinstance(given, str) and given in _PERIODS
        elif name == "budget_usd":
            hint, good = f"dollars, {_MIN_USD:f} to {_MAX_USD:.0f}", _is_number(given) and _MIN_USD <= given <= _MAX_USD
        else:
            most = _MAX_CONCURRENCY if name == "concurrency" else _MAX_COUNT
            hint = f"a whole number, 1 to {most}"
            good = _is_number(given) and isinstance(given, int) and 1 <= given <= most
        if not good:
            without = "; without it there is no such limit" if given == 0 else ""
            raise BadRequest(f"limits.{name} cannot be {str(given)[:32]!r}: {hint}{without}", param="limits")
    made = Allowance(**value)
    if made.fill_s() > MAX_FILL_S:
        raise BadRequest("limits.burst is too large for its rate: it would take decades to fill", param="limits")
    return made if value else None


def _limits(allowance: Allowance) -> dict[str, Any]:
    told = {name: getattr(allowance, name) for name in _LIMITS}
    return {name: value for name, value in told.items() if value != _LIMITS[name].default}


def _written(seconds: float) -> str:
    # isoformat, because strftime writes years before 1000 without zeros.
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z") if seconds else ""


def _end(value: object, now: float) -> float:
    """Parse an expiry as people write it: a date and time, or `2w`, `30d`, `12h`, `15m`, `90s` from now; "" for
    none."""
    if value in ("", None):
        return 0.0
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,6})([smhdw])", value)):
        moment = now + int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[found[2]]
    else:
        moment = _moment(value)
    end = float(floor(moment))  # whole seconds, the stored precision
    if not 0 < end <= _LATEST:
        raise BadRequest(
            "a key's expiry must be between 1970 and 9999; leave expires out for a key that does not expire",
            param="expires",
        )
    return end


def _moment(value: object) -> float:
    """Convert a date and time to seconds since the epoch; the time zone defaults to UTC."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            pass
    raise BadRequest("a time is like 2026-12-31T00:00:00Z, or 30d, 12h, 15m from now", param="expires")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _no_key() -> ApiKey:
    raise ValueError("a key is not an object")
