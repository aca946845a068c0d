"""Transformation rules in the configuration: what is accepted, and every mistake with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from budgateway.config.load import load_config
from budgateway.errors import ConfigError
from budgateway.records import Condition, Edit, Settings, SystemText

ROUTE = """
[providers.vllm]
endpoints = ["http://localhost:8000"]

[[routes]]
name = "chat"
path = "/v1/chat/completions"
provider = "vllm"
auth_required = false
"""


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[str], Settings]:
    """Load a configuration with these rules."""

    def load(text: str, route: str = ROUTE) -> Settings:
        file = tmp_path / "one.toml"
        file.write_text(text + route)
        return load_config(file, environ={"TEAM": "search"})

    return load


@pytest.fixture
def problem(settings: Callable[[str], Settings]) -> Callable[[str], str]:
    """The only problem of a configuration with one rule of this text."""

    def load(text: str) -> str:
        with pytest.raises(ConfigError) as caught:
            settings(f'[[transforms]]\nname = "r"\n{text}')
        (one,) = caught.value.problems
        return one.removeprefix("one.toml: ")

    return load


def test_a_rule_becomes_a_record(settings: Callable[[str], Settings], tmp_path: Path) -> None:
    (tmp_path / "house.txt").write_text("be kind\n")
    loaded = settings(
        """
[[transforms]]
name = "r"
routes = "ch*"
roles = ["free"]
providers = "vllm"
system = { prepend = "file:house.txt" }
request.cap = { max_tokens = 1024, n = { max = 2, default = 1 } }
request.default = { temperature = 0.25, stop = ["a"] }
request.remove = ["logit_bias", "/metadata/x"]
request.rename = { max_completion_tokens = "max_tokens", "/a/b" = "/a/c" }
request.set = { "/chat_template_kwargs/enable_thinking" = false }
request.set_from = { user = "principal", "/metadata/h" = "header:x-h" }
headers = { set = { x-team = "env:TEAM" }, remove = ["User-Agent"] }
response.remove = ["model"]
response_headers.remove = ["openai-processing-ms"]
when = [{ field = "/tools", is = "present" }, { field = "n", in = [1, "two", true] }, { field = "n", above = 3 }]
"""
    )
    (rule,) = loaded.transforms
    assert rule.request == (
        Edit("remove", "logit_bias"),
        Edit("remove", "/metadata/x"),
        Edit("rename", "max_completion_tokens", "max_tokens"),
        Edit("rename", "/a/b", "c"),
        Edit("default", "temperature", "0.25"),
        Edit("default", "stop", '["a"]'),
        Edit("set", "/chat_template_kwargs/enable_thinking", "false"),
        Edit("set_from", "user", "principal"),
        Edit("set_from", "/metadata/h", "header:x-h"),
        Edit("cap", "max_tokens", "1024"),
        Edit("cap", "n", "2", "1"),
    )
    assert rule.when == (
        Condition("present", "/tools"),
        Condition("in", "n", ("1", '"two"', "true")),
        Condition("above", "n", ("3",)),
    )
    assert rule.system == SystemText("prepend", "be kind")
    ((name, value),) = rule.headers.set
    assert (name, value.reveal(), rule.headers.remove) == ("x-team", "search", ("user-agent",))
    assert (rule.routes, rule.providers, rule.roles) == (("ch*",), ("vllm",), ("free",))
    assert str(tmp_path / "house.txt") in dict(loaded.files), "the file is watched"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "transforms[0]: changes nothing: give it one of request"),
        ("strict = true\nresponse.remove=['a']", "transforms[0].strict: has no effect"),
        ("routes = 'chad'\nrequest.remove=['a']", "transforms[0].routes[0]: no route is called 'chad'; did you mean 'chat'?"),
        ("providers = 'vlm'\nrequest.remove=['a']", "transforms[0].providers[0]: no provider is called 'vlm'"),
        ("request.remove = ['model']", "transforms[0].request.remove[0]: model cannot be edited"),
        ("request.set = { '/stream' = true }", "transforms[0].request.set.'/stream': stream cannot be edited"),
        ("request.remove = ['stream_options']", "transforms[0].request.remove[0]: stream_options cannot be edited"),
        (
            "request.set = { '/stream_options/include_usage' = true }",
            "transforms[0].request.set.'/stream_options/include_usage': stream_options.include_usage cannot",
        ),
        ("request.rename = { a = 'model' }", "transforms[0].request.rename.a: model cannot be edited"),
        ("request.rename = { '/a/b' = 'c' }", "transforms[0].request.rename.'/a/b': a member is renamed within"),
        ("request.set = { a = 1979-05-27 }", "transforms[0].request.set.a: has no form in JSON"),
        ("request.set = { a = nan }", "transforms[0].request.set.a: has no form in JSON"),
        ("request.remove = ['/a~']", "transforms[0].request.remove[0]: in a path, '~' is written '~0'"),
        ("request.remove = ['/a/9999']", "transforms[0].request.remove[0]: an index is at most 1023"),
        ("request.cap = { a = 'x' }", "transforms[0].request.cap.a.max: must be a number"),
        ("request.set_from = { a = 'you' }", "transforms[0].request.set_from.a:"),
        ("request.sett = { a = 1 }", "transforms[0].request.sett: unknown key; did you mean 'set'?"),
        ("system = { prepend = 'a', append = 'b' }", "transforms[0].system: needs exactly one of prepend"),
        ("system = { prepend = 'file:none.txt' }", "transforms[0].system.prepend: cannot read 'none.txt'"),
        ("headers.set = { authorization = 'x' }", "transforms[0].headers.set.authorization: 'authorization' cannot be"),
        ("headers.remove = ['content-length']", "transforms[0].headers.remove[0]: 'content-length' cannot be edited"),
        ("headers.set = { x-a = 'env:NONE' }", "transforms[0].headers.set.x-a: the variable NONE is not set"),
        ("response_headers.set = { set-cookie = 'x' }", "transforms[0].response_headers.set.set-cookie: 'set-cookie'"),
        ("response_headers.set = { x-request-id = 'x' }", "transforms[0].response_headers.set.x-request-id: 'x-request"),
        ("when = { field = 'a' }\nrequest.remove=['a']", "transforms[0].when[0]: needs exactly one of is, equals"),
        ("when = { field = 'a', equals = [1] }\nrequest.remove=['a']", "transforms[0].when[0].equals: must be a string"),
        ("dialects = 'openai'\nrequest.remove=['a']", "transforms[0].dialects[0]: must be one of openai.chat"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_place(text: str, message: str, problem: Callable[[str], str]) -> None:
    assert problem(text).startswith(message)


def test_names_are_unique_and_paths_that_two_rules_set_are_noted(settings: Callable[[str], Settings]) -> None:
    rule = '[[transforms]]\nname = "{}"\nrequest.set = {{ a = 1 }}\n'
    with pytest.raises(ConfigError, match="is the name of transforms"):
        settings(rule.format("r") * 2)
    loaded = settings(rule.format("r") + rule.format("s"))
    assert "transforms 'r' and 's' both set request.a: the last one counts" in loaded.notices


def test_drop_params_are_a_rule_of_the_provider(settings: Callable[[str], Settings]) -> None:
    loaded = settings("", ROUTE.replace("[[routes]]", 'drop_params = ["seed", "/a/b"]\n\n[[routes]]'))
    (rule,) = loaded.transforms
    assert rule.providers == ("vllm",)
    assert rule.request == (Edit("remove", "seed"), Edit("remove", "/a/b"))


def test_what_a_kind_refuses_can_be_dropped(settings: Callable[[str], Settings]) -> None:
    def rules(kind: str) -> list[str]:
        route = ROUTE.replace("[[routes]]", f'kind = "{kind}"\ndrop_params = "unsupported"\n\n[[routes]]')
        return [edit.path for rule in settings("", route).transforms for edit in rule.request]

    assert "top_k" in rules("azure")
    assert rules("vllm") == []


def test_a_system_text_without_a_place_is_noted(settings: Callable[[str], Settings]) -> None:
    loaded = settings('[[transforms]]\nname = "r"\ndialects = "openai.completions"\nsystem = { append = "x" }\n')
    assert any("has no effect" in notice for notice in loaded.notices)


def test_more_rules_than_a_mask_holds_are_refused(settings: Callable[[str], Settings]) -> None:
    rules = "".join(f'[[transforms]]\nname = "r{at}"\nrequest.remove = ["a"]\n' for at in range(65))
    with pytest.raises(ConfigError, match="65 rules may apply to the route 'chat', at most 64 can"):
        settings(rules)
