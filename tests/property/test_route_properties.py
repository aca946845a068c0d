"""The route table against an oracle that tries every rule."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import routes

from budgateway._native import RequestHead, RouteTable

PATHS = st.sampled_from(
    [
        "",
        "/a",
        "/a/b",
        "/a/{x}",
        "/{x}/b",
        "/{x}",
        "/a/*",
        "/*",
        "/{x:path}",
        "/a/{x:path}",
        "/{x}/b/*",
        "/a/b/",
        "/{x}/*",
        "/",
    ]
)
HOSTS = ["", "a.com", "b.a.com", "*.com", "*.a.com"]
MODELS = ["m", "mm", "m*", "mm*", "*", "?m", "m?", "*m*", "\u00e9?"]
HEADERS = [("x-t", "1"), ("x-t", "*"), ("x-u", "a?")]
RULES = st.lists(
    st.tuples(
        st.sampled_from([""] * 4 + HOSTS),
        PATHS,
        st.sampled_from([[], [], ["GET"], ["POST", "GET"]]),
        st.one_of(st.just([]), st.lists(st.sampled_from(MODELS), max_size=2)),
        st.sampled_from([[], HEADERS[:1], HEADERS[1:2], HEADERS[:2], HEADERS[2:], HEADERS]),
        st.sampled_from([0, 0, 0, 1, -1]),
    ),
    max_size=16,
)
REQUEST_PATHS = st.sampled_from(["/a/b", "/a/b", "/a", "/a/", "/a/b/", "/a/c", "/c/b", "/c/b/d", "/", "//"])
REQUESTS = st.tuples(
    st.sampled_from(["GET", "POST", "PUT"]),
    REQUEST_PATHS,
    st.sampled_from(["", "a.com", "b.a.com", "c.b.a.com", "com"]),
    st.sampled_from([None, "m", "mm", "mmm", "xm", "z", "\u00e9\u00e9"]),
    st.lists(
        st.sampled_from([("x-t", "1"), ("x-t", "2"), ("x-u", "ab")]), max_size=2, unique_by=lambda header: header[0]
    ),
)


@settings(max_examples=300)
@given(RULES, st.lists(REQUESTS, min_size=1, max_size=8))
def test_the_table_agrees_with_trying_every_rule(rules: list[Any], requests: list[Any]) -> None:
    table = RouteTable(rules)
    for method, path, host, model, headers in requests:
        wanted = routes.find(rules, method, path, host, model, headers)
        assert table.lookup(method, path, host, model, headers) == wanted
        explained = [rule for rule, matched, _ in table.explain(method, path, host, model, headers) if matched]
        assert (explained[0] if explained else -1) == max(wanted, -1)
        if path == "//":
            continue  # no head has it
        lines = [f"{name}: {value}" for name, value in headers]
        # HTTP/1.0, so that "no host" can be asked for.
        raw = "\r\n".join(
            [f"{method} {path}?q HTTP/1.0", *([f"Host: {host.upper()}:80"] if host else []), *lines, "", ""]
        )
        head = RequestHead.parse(raw.encode())
        assert head is not None
        # A final slash may be another spelling of what another rule has.
        assert table.find(head, model) in ((wanted,) if path in ("/", path.rstrip("/")) else (wanted, -4))
