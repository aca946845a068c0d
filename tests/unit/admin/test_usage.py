"""`GET /admin/usage`: sums as asked, bounded."""

from __future__ import annotations

from typing import Any

import pytest
from books import Books

from budgateway.admin.usage import UsageReport
from budgateway.errors import BadRequest
from budgateway.native import Price, Segment, UsageTable

DOCUMENT = b'{"usage":{"prompt_tokens":%d,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":5}}}'


@pytest.fixture
def report() -> UsageReport:
    segment = Segment()
    books = Books(segment)
    price = Price(1000.0, 0.0, 1000.0)
    for place, (who, tenant, model, route, tokens) in enumerate(
        [("anna", "a", "m", "r", 100), ("anna", "a", "n", "r", 50), ("bob", "b", "m", "s", 30), ("", "", "", "s", 10)]
    ):
        books.enter(
            route=segment.intern(route),
            model_label=segment.intern(model),
            status=200,
            answer=DOCUMENT % tokens,
            price=price if place else None,
            principal=who,
            tenant=tenant,
            model=model,
        )
    return UsageReport(UsageTable(segment))


def told(report: UsageReport, *names: str, **query: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in report.document(query)["usage"]]


def test_everything_is_told_apart_by_cost(report: UsageReport) -> None:
    assert told(report, "principal", "model", "route", "tokens_in", "cost_usd") == [
        ("anna", "n", "r", 50, 0.055),
        ("bob", "m", "s", 30, 0.035),
        ("", "other", "s", 10, 0.015),
        ("anna", "m", "r", 100, 0.0),
    ]
    total = report.document({})["total"]
    assert (total["requests"], total["tokens_out"], total["tokens_cached"]) == (4, 40, 20)


def test_sums_filters_and_the_rest(report: UsageReport) -> None:
    assert told(report, "principal", "requests", by="principal") == [("anna", 2), ("bob", 1), ("", 1)]
    assert told(report, "tenant", "model", by="tenant,model", principal="anna") == [("a", "n"), ("a", "m")]
    assert told(report, "principal", "tokens_in", by="principal", top="1") == [("anna", 150), ("other", 40)]
    assert told(report, "principal", by="principal", top="3") == [("anna",), ("bob",), ("",)]
    assert told(report, "route", by="route", tenant="nobody") == []
    assert report.document({"principal": "anna"})["total"]["requests"] == 2


def test_what_has_no_price_is_ranked_by_tokens_then_by_requests() -> None:
    segment = Segment()
    books = Books(segment)
    for who, tokens in (("anna", 1), ("bob", 100), ("carl", 45), ("carl", 45), ("dora", 100)):
        labels = {"route": segment.intern("r"), "model_label": segment.intern("m")}
        books.enter(**labels, status=200, answer=DOCUMENT % tokens, principal=who, model="m")
    assert told(UsageReport(UsageTable(segment)), "principal", by="principal") == [
        ("carl",),
        ("bob",),
        ("dora",),
        ("anna",),
    ]


@pytest.mark.parametrize(
    "query", [{"by": "colour"}, {"by": ""}, {"top": "0"}, {"top": "1001"}, {"top": "x"}, {"user": "anna"}]
)
def test_other_questions_are_refused(report: UsageReport, query: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        report.document(query)
