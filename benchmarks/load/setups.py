"""Set-ups: the features that a case has on, and the clients that send its requests."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import jwt

PATH = "/v1/chat/completions"
# What the null model calls itself; an alias has as many letters, so that an answer keeps its length.
MODEL = "bench-model"
ALIAS = "bench-alias"

# Names of features, with what stands under a table whose case has them on. budgateway applies them; the others get the same requests.
FEATURES: dict[str, str] = {
    "jwt": "JWT (HS256)",
    "limits": "requests and tokens a minute by user",
    "concurrency": "concurrency by user",
    "budget": "a budget by user and prices",
    "alias": "an alias for each model",
    "proxies": "trusted_proxies with x-forwarded-for",
}
EVERYTHING = tuple(FEATURES)

# An address of documentation (RFC 5737) behind the load generator, which is the trusted proxy.
FORWARDED_FOR = "203.0.113.7"
TOKEN_LIFE_S = 24 * 3600
# Names of several models have five digits.
MAX_MODELS = 100_000


@dataclass(frozen=True, slots=True)
class Setup:
    """Features that are on, and over how many principals and models the requests are spread."""

    features: tuple[str, ...] = ()
    users: int = 1
    models: int = 1

    def model_names(self) -> list[str]:
        """Names that clients ask for, all of one length."""
        if self.models > 1:
            return [f"bench-{number:05}" for number in range(self.models)]
        return [ALIAS if "alias" in self.features else MODEL]

    def label(self) -> str:
        """The features and the spread in a few words; empty without any."""
        words = ["+".join(self.features)] if self.features else []
        words += [f"{self.users:,} users"] if self.users > 1 else []
        words += [f"{self.models:,} models"] if self.models > 1 else []
        return ", ".join(words)


BARE = Setup()


class Clients:
    """Clients of one run. Their tokens are made beforehand, signed with a secret of this run, and stand in files."""

    def __init__(self, folder: Path) -> None:
        self.secret = secrets.token_hex(32)
        self._folder = folder

    def headers(self, setup: Setup) -> dict[str, str]:
        """Headers of a single request: those of the first user."""
        headers = self._fixed_headers(setup)
        if "jwt" in setup.features:
            headers["authorization"] = f"Bearer {self._token(0)}"
        return headers

    def options(self, setup: Setup, own_headers: dict[str, str], seed: int) -> list[str]:
        """Options of the load generator.

        `own_headers` are the peer's. One that has a credential of its own knows neither our tokens nor several models.
        """
        own_client = "authorization" in own_headers
        headers = {**self._fixed_headers(setup), **own_headers}
        options = [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]
        if own_client:
            return options
        if "jwt" in setup.features:
            options += ["--tokens", str(self._tokens(setup.users))]
        if setup.models > 1:
            options += ["--models", str(self._file(f"models-{setup.models}", setup.model_names()))]
        else:
            options += ["--model", setup.model_names()[0]]
        return [*options, "--seed", str(seed)]

    def _fixed_headers(self, setup: Setup) -> dict[str, str]:
        return {"x-forwarded-for": FORWARDED_FOR} if "proxies" in setup.features else {}

    def _tokens(self, users: int) -> Path:
        path = self._folder / f"tokens-{users}"
        return path if path.exists() else self._file(path.name, [self._token(number) for number in range(users)])

    def _token(self, number: int) -> str:
        now = int(time.time())
        claims = {"sub": f"user-{number:05}", "roles": ["chat"], "iat": now, "exp": now + TOKEN_LIFE_S}
        return jwt.encode(claims, self.secret, algorithm="HS256")

    def _file(self, name: str, lines: list[str]) -> Path:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n")
        return path
