"""Processes that stay are small.

A worker starts from records, and modules for the command line or the admin server stay out of it; the supervisor does not
know the configuration's schema.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from tokens import KINDS, forged, pem, signed

SCRIPT = "import sys, budgateway.{}; print(*sys.modules)"
# The event loop, the parsers, and the resolver with what it is made of (26 ms beside 270, and 1.2 MiB, which workers share);
# everything else is ours or the standard library.
RESOLVER = {"aiodns", "pycares", "_cares", "_cffi_backend", "idna"}
WORKER = {"hiredis", "httptools", "uvloop", *RESOLVER}


@pytest.mark.parametrize(
    ("module", "third_party"), [("process.worker", WORKER), ("process.supervisor", WORKER | {"prometheus_client"})]
)
def test_a_process_imports_what_it_serves_with_and_nothing_else(module: str, third_party: set[str]) -> None:
    command = [sys.executable, "-I", "-c", SCRIPT.format(module)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    started = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    # An editable install has an import hook of its own, loaded at the interpreter's start.
    packages = {name.partition(".")[0] for name in told.stdout.split()}
    packages -= {name.partition(".")[0] for name in started.stdout.split()}
    packages -= {name for name in packages if name.startswith(("_cython_", "cython_"))}
    assert packages - sys.stdlib_module_names == third_party | {"budgateway"}


# argv: the public keys, and tokens of the issuer with keys, of the one with a secret, or of both.
TOKENS = """
import sys
from budgateway.app.preload import preload, reads_keys
from budgateway.auth.bearer import Bearers
from budgateway.records import Auth, Issuer, Secret, Settings
pem, *tokens = sys.argv[1:]
issuers = [Issuer("own", "", ("HS256",), secret=Secret("a secret of more than thirty-two bytes"))]
if pem:
    names = ("RS256", "PS256", "ES256", "ES512", "EdDSA")
    issuers.append(Issuer("corp", "https://login.example.com/", names, public_keys=pem, audience=("budgateway",)))
preload(keys=reads_keys(Settings(auth=Auth(issuers=tuple(issuers)))))
bearers = Bearers(issuers)
before = set(sys.modules)
for token in tokens:
    bearers.verify(token, 1e9)
print(*sorted(set(sys.modules) - before), *sorted({"jwt", "cryptography"} & before))
"""


def imported(*words: str) -> list[str]:
    """Return what a worker's first tokens import, and which of the libraries that read keys it had imported before."""
    command = [sys.executable, "-c", TOKENS, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()


# The second one is left to Python.
OF_A_SECRET = [forged({"alg": "HS256"}, {"sub": name, "exp": 1_000_000_300}) for name in ("ada", "\u00c5sa")]


def test_tokens_with_a_shared_secret_need_no_library() -> None:
    assert imported("", *OF_A_SECRET) == []


def test_the_first_tokens_of_a_worker_import_nothing() -> None:
    names = ("RS256", "PS256", "ES256", "ES512", "EdDSA")
    keys = "".join(pem(kind) for kind in sorted({KINDS[name] for name in names}))
    tokens = [signed(name, exp=1_000_000_300, iat=None, sub=sub) for name in names for sub in ("ada", "\u00c5sa")]
    assert imported(keys, *OF_A_SECRET, *tokens) == ["cryptography", "jwt"]
