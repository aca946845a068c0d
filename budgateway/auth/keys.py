"""API keys: generated at random, stored as hashes, looked up by hash."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from budgateway.records import ApiKey, Principal

PREFIX = "bg-"
# 62 ** 43 is more than 2 ** 256. Only letters and digits: a double click selects them as one word.
_ALPHABET = string.ascii_letters + string.digits
_SECRET_CHARS = 43
_SHOWN_CHARS = len(PREFIX) + 5
_NEVER = float("inf")


class Found(NamedTuple):
    """A key's principal, and its expiry (seconds since the epoch)."""

    principal: Principal
    expires: float


class KeyRing:
    """Keys by the hash of their secret. Immutable.

    Any input is hashed, whatever it looks like, and the hash looked up: the time depends on the input's length and on
    no secret. A guesser learns neither that a prefix is right nor that a name exists; the dict compares hashes that
    nobody can choose.
    """

    __slots__ = ("_by_digest",)

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._by_digest: dict[str, tuple[ApiKey, float]] = {}
        for key in keys:
            if not key.disabled:
                ends = key.expires_s or _NEVER
                self._by_digest[key.digest] = (key, ends)
                if key.old_digest:
                    self._by_digest[key.old_digest] = (key, min(ends, key.old_until_s))

    def __len__(self) -> int:
        return len(self._by_digest)

    def find(self, secret: str, now: float) -> Found | None:
        """Return the principal and expiry of a secret; None when it is unknown or no longer valid."""
        found = self._by_digest.get(digest_of(secret))
        if found is None or found[1] <= now:
            return None
        return Found(principal_of(found[0]), found[1])


def new_secret() -> str:
    """Generate a key: `bg-` and 256 random bits."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARS))


def digest_of(secret: str) -> str:
    """Return the stored hash of a key, a plain SHA-256. Slow and salted hashes protect secrets that people invent, and
    256 random bits cannot be guessed at any speed. A pepper would have to be shared by all replicas, and even without
    one the hashes are useless to a reader."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def start_of(secret: str) -> str:
    """Return the beginning of a key, by which people identify it: 30 of its 256 bits."""
    return secret[:_SHOWN_CHARS]


def principal_of(key: ApiKey) -> Principal:
    """Return the principal of a key."""
    return Principal(
        id=f"key:{key.name}",
        tenant=key.tenant,
        roles=key.roles,
        anonymous=False,
        groups=key.groups,
        models=key.models,
        key=key.name,
        allowance=key.allowance,
    )
