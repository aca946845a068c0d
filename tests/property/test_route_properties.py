"""The route table against an oracle that tries every rule."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from oracles import routes

from budgateway._native import RequestHead, RouteTable

SEGMENTS = st.sampled_from(["a", "b", "v1", "{x}"])
PATHS = st.one_of(
    st.just(""),
    st.builds(
        lambda parts, end: "/" + "/".join([part for part in parts if part != "{x}"][:2] + parts[:1] + end),
        st.lists(SEGMENTS, min_size=1, max_size=3),
        st.sampled_from([[], ["*"], ["{y:path}"], [""]]),
    ).map(
        lambda path: path.replace("{y:path}", "{x:path}") if path.count("{x}") == 0 else path.replace("{y:path}", "*")
    ),
)
HOSTS = ["", "a.com", "b.a.com", "*.com", "*.a.com"]
MODELS = ["m", "mm", "m*", "mm*", "*", "?m", "m?", "*m*", "\u00e9?"]
HEADERS = [("x-t", "1"), ("x-t", "*"), ("x-u", "a?")]
RULES = st.lists(
    st.tuples(
        st.sampled_from(HOSTS),
        PATHS,
        st.lists(st.sampled_from(["GET", "POST"]), max_size=2),
        st.lists(st.sampled_from(MODELS), max_size=3),
        st.lists(st.sampled_from(HEADERS), max_size=2),
        st.integers(-1, 1),
    ),
    max_size=12,
)
REQUEST_PATHS = st.lists(st.sampled_from(["a", "b", "v1", ""]), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
REQUESTS = st.tuples(
    st.sampled_from(["GET", "POST", "PUT"]),
    REQUEST_PATHS,
    st.sampled_from(["", "a.com", "b.a.com", "c.b.a.com", "com"]),
    st.sampled_from([None, "m", "mm", "mmm", "xm", "z", "\u00e9\u00e9"]),
    st.lists(
        st.sampled_from([("x-t", "1"), ("x-t", "2"), ("x-u", "ab")]), max_size=2, unique_by=lambda header: header[0]
    ),
)


@given(RULES, st.lists(REQUESTS, min_size=1, max_size=8))
def test_the_table_agrees_with_trying_every_rule(rules: list[Any], requests: list[Any]) -> None:
    table = RouteTable(rules)
    for method, path, host, model, headers in requests:
        wanted = routes.find(rules, method, path, host, model, headers)
        assert table.lookup(method, path, host, model, headers) == wanted
        explained = [rule for rule, matched, _ in table.explain(method, path, host, model, headers) if matched]
        assert (explained[0] if explained else -1) == max(wanted, -1)
        lines = [f"{name}: {value}" for name, value in headers]
        # HTTP/1.0, so that "no host" can be asked for.
        raw = "\r\n".join(
            [f"{method} {path}?q HTTP/1.0", *([f"Host: {host.upper()}:80"] if host else []), *lines, "", ""]
        )
        head = RequestHead.parse(raw.encode())
        assert head is not None
        assert table.find(head, model) == wanted
