"""docs/errors.md says what is so: its tables are compared with the classes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from budgateway import errors
from budgateway.errors import GatewayError
from budgateway.wire.dialects import number_of
from budgateway.wire.error_response import error_document

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "errors.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \| `(\w+)` \| (\w+) \| (\w+) \|$", re.M)


def documented() -> dict[str, tuple[int, str, str, str, str]]:
    """The table of the page, by class."""
    return {name: (int(status), *rest) for name, status, *rest in ROW.findall(TEXT)}  # type: ignore[misc]


def classes() -> dict[str, type[GatewayError]]:
    """Every class of the tree but its root."""
    found = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {
        name: value for name, value in found.items() if issubclass(value, GatewayError) and value is not GatewayError
    }


def test_the_page_lists_every_class_as_it_is() -> None:
    tree = {name: (cls.status, cls.code, cls.type, cls.who, cls.retry) for name, cls in classes().items()}
    assert documented() == tree


def test_no_two_errors_share_a_code() -> None:
    codes = [cls.code for cls in classes().values()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(("status", "kind"), re.findall(r"^\| (\d+) \| `(\w+)` \|$", TEXT, re.M))
def test_anthropics_word_for_a_status(status: str, kind: str) -> None:
    cls = type("Sample", (GatewayError,), {"status": int(status)})
    assert error_document(cls("x"), "id", number_of("anthropic.messages"))["error"]["type"] == kind


def test_the_example_has_the_members_of_an_answer() -> None:
    example = json.loads(re.findall(r"```json\n(.*?)```", TEXT, re.S)[0])["error"]
    error = errors.ModelNotFound(example["message"], param=example["param"])
    assert error_document(error, example["request_id"], number_of("openai.chat"))["error"] == example
