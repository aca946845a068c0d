"""API keys: made at random, kept as hashes, found by hash."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from budgateway.records import ApiKey, Principal

PREFIX = "bg-"
# 62 ** 43 is more than 2 ** 256; letters and digits alone are one word to whoever selects it with a double click.
_ALPHABET = string.ascii_letters + string.digits
_SECRET_CHARS = 43
_SHOWN_CHARS = len(PREFIX) + 5
_NEVER = float("inf")


class Found(NamedTuple):
    """Whose key it is, and until when (seconds since the epoch) it is good."""

    principal: Principal
    expires: float


class KeyRing:
    """Keys by the hash of their secret. Immutable.

    What is given is hashed, whatever it looks like, and the hash looked up: how long that takes depends on the length of
    what was given and on nothing that is known here. One who guesses learns neither that a beginning is right nor that a
    name exists; a dict's own comparison is of hashes that nobody can choose.
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
        """Whose secret it is; None when it is nobody's, or no more."""
        found = self._by_digest.get(digest_of(secret))
        if found is None or found[1] <= now:
            return None
        return Found(principal_of(found[0]), found[1])


def new_secret() -> str:
    """A new key: `bg-` and 256 random bits."""
    return PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARS))


def digest_of(secret: str) -> str:
    """What is kept of a key. A plain SHA-256: slow and salted hashes protect what people make up, and 256 random bits
    cannot be guessed at any speed; a pepper would have to be shared by all replicas, and whoever reads the hashes
    could still do nothing with them."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def start_of(secret: str) -> str:
    """The beginning of a key, by which people tell their keys apart: 30 of its 256 bits."""
    return secret[:_SHOWN_CHARS]


def principal_of(key: ApiKey) -> Principal:
    """Who comes with a key."""
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
