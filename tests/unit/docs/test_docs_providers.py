"""docs/provider-integration.md says what is so: its lists of headers and its paths are tried on the writers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from budgateway.kinds import KINDS
from budgateway.native import POLICIES, RequestHead, RequestHeadWriter, ResponseHead, ResponseHeadWriter

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "provider-integration.md").read_text()


def section(title: str) -> str:
    """The text below one heading."""
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def listed(text: str, index: int) -> list[str]:
    """The names of the index-th paragraph that is nothing but names in backticks; `x-*` stands for `x-any`."""
    lists = [block for block in text.split("\n\n") if re.fullmatch(r"(`[^`]+`\s*)+", block)]
    return [name.replace("*", "any") for name in re.findall(r"`([^`]+)`", lists[index])]


UPSTREAM = section("Headers to an upstream")
PASSED = listed(UPSTREAM, 0)
VENDOR = listed(UPSTREAM, 1)
NEVER = listed(UPSTREAM, 2)
DROPPED = listed(section("Headers to a client"), 0)
PATHS = re.findall(
    r"^\| `(/\S+)` \| (?:`(\S+)`)? ?\| `https?://[^/`]+([^`]*)` \| `(\S+)` \|$", section("Paths"), re.MULTILINE
)
# These are read as the message's own framing, and cannot hold just anything.
FRAMING = {"content-length", "transfer-encoding", "connection", "expect", "host", "te", "upgrade"}


def sent(name: str, forward: tuple[str, ...]) -> bytes:
    """Return the head that an upstream receives of a request with the header `name: planted`."""
    head = RequestHead.parse(f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{name}: planted\r\n\r\n".encode())
    assert head is not None
    return RequestHeadWriter("up", "", "", forward, []).write(head, "id", -1)


def test_the_lists_are_found() -> None:
    assert (len(PASSED), len(NEVER) > 20, len(DROPPED) > 15, len(PATHS)) == (8, True, True, 5)


@pytest.mark.parametrize("name", PASSED)
def test_what_is_listed_goes_upstream(name: str) -> None:
    assert f"{name}: planted".encode() in sent(name, ())


def test_the_table_of_kinds_is_what_the_kinds_say() -> None:
    def quoted(*words: str) -> str:
        return ", ".join(f"`{word}`" for word in words if word)

    rows = re.findall(
        r"^\| (`\w+`) \| [^|]+ \| [^|]+ \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", section("Kinds"), re.MULTILINE
    )
    assert [tuple(cell.strip() for cell in row) for row in rows] == [
        (
            quoted(kind.name),
            quoted(kind.endpoints_variable),
            quoted(kind.key_variable),
            quoted(kind.probe_path or kind.models_path),
            quoted(*kind.load_paths),
        )
        for kind in KINDS.values()
    ]


def test_the_policies_are_listed_wherever_they_are() -> None:
    def named(text: str) -> list[str]:
        return re.findall(r"\w+", text)

    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", section("Choosing among upstreams"), re.MULTILINE)
    assert rows == ["load_balancer", *POLICIES]
    root = Path(__file__).resolve().parents[3]
    row = re.search(
        r"^\| `load_balancer` \| name \| `\"(\w+)\"` \| (.*) \|$",
        (root / "docs/configuration.md").read_text(),
        re.MULTILINE,
    )
    assert row is not None
    assert (named(row[2]), row[1]) == (list(POLICIES), "round_robin")
    comment = re.search(r"^load_balancer = .*# (.*)$", (root / "config/routes.toml").read_text(), re.MULTILINE)
    assert comment is not None
    assert named(comment[1]) == list(POLICIES)


def test_what_goes_to_some_kinds_is_listed() -> None:
    passed = {kind.name: kind.vendor_headers for kind in KINDS.values() if kind.vendor_headers}
    assert passed == {
        **dict.fromkeys(("openai", "litellm", "azure"), tuple(VENDOR)),
        "anthropic": tuple(VENDOR[-2:]),
    }


@pytest.mark.parametrize("name", [name for name in NEVER if name not in FRAMING])
def test_what_never_goes_upstream_does_not_even_when_asked_for(name: str) -> None:
    assert b"planted" not in sent(name, (name,))


@pytest.mark.parametrize("name", ["origin", "accept-encoding", "x-tenant", "referer", "range"])
def test_the_rest_goes_upstream_when_asked_for(name: str) -> None:
    assert b"planted" not in sent(name, ())
    assert b"planted" in sent(name, (name,))


@pytest.mark.parametrize("name", [*(name for name in DROPPED if name not in FRAMING), "x-anything"])
def test_what_is_listed_stays_away_from_clients(name: str) -> None:
    head = ResponseHead.parse(f"HTTP/1.1 200 OK\r\n{name}: planted\r\n\r\n".encode(), 0, False)
    assert head is not None
    written = ResponseHeadWriter().write(head, 0, True, "id", b"", 0, 0)
    assert (b"planted" in written) == (name == "x-anything")


@pytest.mark.parametrize(("asked", "strip", "prefix", "target"), PATHS)
def test_a_path_becomes_what_the_table_says(asked: str, strip: str, prefix: str, target: str) -> None:
    head = RequestHead.parse(f"GET {asked} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert head is not None
    written = RequestHeadWriter("up", prefix, strip, (), []).write(head, "id", -1)
    assert written.startswith(f"GET {target} HTTP/1.1\r\n".encode())
