"""API keys: random, kept as hashes, found by hash and by nothing else."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict

from budgateway.auth.keys import KeyRing, digest_of, new_secret, principal_of, start_of
from budgateway.records import Allowance, ApiKey

NOW = 1_800_000_000.0


def key_of(secret: str, name: str = "k", **more: object) -> ApiKey:
    return ApiKey(name, digest_of(secret), start_of(secret), **more)  # type: ignore[arg-type]


def test_a_key_is_256_random_bits_behind_a_prefix_that_scanners_find() -> None:
    made = [new_secret() for _ in range(2000)]
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"bg-[A-Za-z0-9]{43}", secret) for secret in made)
    counts = Counter("".join(secret[3:] for secret in made))
    assert len(counts) == 62
    mean = 2000 * 43 / 62
    assert all(abs(count - mean) < 6 * mean**0.5 for count in counts.values())


def test_the_secret_is_not_in_what_is_kept() -> None:
    secret = new_secret()
    kept = str(asdict(key_of(secret)))
    assert secret not in kept
    assert secret[8:] not in kept


def test_a_key_is_found_by_its_secret() -> None:
    secret = new_secret()
    ring = KeyRing([key_of(new_secret(), "other"), key_of(secret, "mine", roles=("r",), tenant="t")])
    found = ring.find(secret, NOW)
    assert found is not None
    assert (found.principal.id, found.principal.key, found.principal.tenant) == ("key:mine", "mine", "t")
    for other in (
        secret[:-1],
        secret + "x",
        secret.lower(),
        "",
        "bg-",
        start_of(secret),
        digest_of(secret),
        "\ud800",
        "é",
    ):
        assert ring.find(other, NOW) is None


def test_an_expired_or_disabled_key_is_nobodys() -> None:
    secret = new_secret()
    assert KeyRing([key_of(secret, expires_s=NOW + 1)]).find(secret, NOW) is not None
    assert KeyRing([key_of(secret, expires_s=NOW)]).find(secret, NOW) is None
    assert KeyRing([key_of(secret, disabled=True)]).find(secret, NOW) is None


def test_the_secret_before_a_rotation_is_good_for_its_grace() -> None:
    new, old = new_secret(), new_secret()
    ring = KeyRing([key_of(new, old_digest=digest_of(old), old_until_s=NOW + 10, expires_s=NOW + 5)])
    found = ring.find(old, NOW)
    assert found is not None
    assert found.expires == NOW + 5
    ring = KeyRing([key_of(new, old_digest=digest_of(old), old_until_s=NOW + 10)])
    assert ring.find(old, NOW + 10) is None
    assert ring.find(new, NOW + 10) is not None


def test_a_key_brings_its_allowance() -> None:
    allowance = Allowance(requests_per_minute=5)
    assert principal_of(key_of("x", allowance=allowance)).allowance is allowance
