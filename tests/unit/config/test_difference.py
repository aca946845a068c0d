"""The difference between two configurations that a reload reports, and the detection of changed files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from budgateway.config.difference import FIXED, FileWatch, compare, plain, refusals
from budgateway.config.source import stamp
from budgateway.records import Provider, RateLimit, Route, Secret, Settings, Tls, Upstream

ONE = Upstream(url="http://one:1", tls=False, host="one", port=1)
TWO = Upstream(url="http://two:2", tls=False, host="two", port=2)
VLLM = Provider(name="vllm", kind="vllm", upstreams=(ONE,), api_key=Secret("first"))
CHAT = Route(name="chat", path="/v1/chat/completions", provider="vllm")
SETTINGS = Settings(providers=(VLLM,), routes=(CHAT,), jwt_secret=Secret("s" * 32))


def test_nothing_changed_says_so() -> None:
    difference = compare(SETTINGS, replace(SETTINGS, sources=("elsewhere.toml",), notices=("a",)))
    assert not difference
    assert str(difference) == "nothing changed"


def test_what_came_went_and_changed_is_named() -> None:
    other = replace(VLLM, upstreams=(TWO,))
    route = replace(CHAT, priority=3)
    after = replace(SETTINGS, providers=(other,), routes=(route, replace(CHAT, name="more", path="/more")))
    document = compare(SETTINGS, after).document()
    assert document["routes"] == {
        "added": ["more"], "removed": [], "changed": [{"name": "chat", "fields": ["priority"]}]
    }  # fmt: skip
    assert document["upstreams"] == {"added": ["http://two:2"], "removed": ["http://one:1"], "changed": []}
    assert str(compare(SETTINGS, after)) == "+1 route, ~1 route, ~1 provider, +1 upstream, -1 upstream"


def test_a_changed_secret_shows_as_a_change_and_not_as_itself() -> None:
    after = replace(
        SETTINGS, providers=(replace(VLLM, api_key=Secret("second")),), jwt_secret=Secret("t" * 32), keepalive_s=1.0
    )
    difference = compare(SETTINGS, after)
    assert difference.providers.changed == (("vllm", ("api_key",)),)
    assert difference.settings == (("keepalive_s", 75.0, 1.0), ("jwt_secret", "***", "***"))
    everything = repr(difference) + str(difference) + repr(difference.document())
    assert [secret for secret in ("first", "second", "ssss", "tttt") if secret in everything] == []


def test_what_owns_a_socket_or_a_process_is_refused_by_its_key() -> None:
    after = replace(SETTINGS, host="::1", port=1, workers=9, access_log="off", metrics_host="::1", metrics_port=2)
    problems = refusals(SETTINGS, replace(after, metrics_enabled=False, tls=Tls("a", "b")))
    assert [problem.partition(": ")[0] for problem in problems] == [*FIXED.values(), "tls"]
    assert refusals(SETTINGS, replace(SETTINGS, rate_limit=RateLimit(1, 1), drain_s=1.0, log_level="DEBUG")) == []


def test_every_setting_can_be_compared_shown_or_is_refused() -> None:
    shown = plain(SETTINGS)
    assert shown["jwt_secret"] == "***"
    assert shown["providers"][0]["upstreams"][0]["url"] == "http://one:1"
    assert set(FIXED) <= set(shown)


def test_a_watch_notices_contents_replacement_and_new_files(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("a = 1")
    departures = FileWatch([str(file), "JWT_SECRET"])
    assert not departures.changed()
    file.write_text("a = 22")
    assert departures.changed()
    assert not departures.changed()
    (tmp_path / "new").write_text("a = 33")
    os.replace(tmp_path / "new", file)
    assert departures.changed()
    (tmp_path / "routes.toml").write_text("")
    assert departures.changed()
    file.unlink()
    assert departures.changed()
    assert not departures.changed()


def test_a_watch_knows_what_files_were_like_when_they_were_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one")
    read = [(str(secret), stamp(secret))]
    secret.write_text("another")  # between the reading and the watch
    departures = FileWatch([], read)
    assert departures.changed()
    assert not departures.changed()
    departures.follow([], read)  # a reload that was refused: the change is not noticed again
    assert not departures.changed()
    other = tmp_path / "other"
    departures.follow([], [*read, (str(other), stamp(other))])  # not there yet
    assert not departures.changed()
    other.write_text("here")
    assert departures.changed()
    departures.follow([], read)
    other.unlink()
    assert not departures.changed()


def test_a_watch_follows_the_links_that_kubernetes_changes(tmp_path: Path) -> None:
    for name, text in (("..1", "sk-one"), ("..2", "sk-two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "secret").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    secret = tmp_path / "secret"
    secret.symlink_to("..data/secret")
    departures = FileWatch([], [(str(secret), stamp(secret))])
    assert not departures.changed()
    (tmp_path / "..new").symlink_to("..2")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    assert departures.changed()
