"""Settings travel between processes in pieces, and arrive as they were."""

from __future__ import annotations

from dataclasses import replace

from budgateway.config.packing import packing, unpacking
from budgateway.records import Provider, Retries, Route, Secret, Settings, Upstream
from budgateway.system.slices import at_once

UPSTREAM = Upstream(url="http://u:1", tls=False, host="u", port=1)
RETRIES = Retries(max_attempts=7)
SETTINGS = Settings(
    port=81,
    providers=tuple(Provider(f"p{number}", "vllm", (UPSTREAM,), api_key=Secret("s" * 40)) for number in range(3)),
    routes=tuple(Route(name=f"r{number}", path=f"/{number}", provider="p0", retries=RETRIES) for number in range(4)),
)


def test_settings_arrive_as_they_were() -> None:
    for settings in (SETTINGS, replace(SETTINGS, routes=(), providers=())):
        arrived = at_once(unpacking(at_once(packing(settings))))
        assert arrived == settings
        assert [one.api_key and one.api_key.reveal() for one in arrived.providers] == ["s" * 40] * len(
            settings.providers
        )


def test_what_records_share_is_written_once() -> None:
    arrived = at_once(unpacking(at_once(packing(SETTINGS))))
    assert len({id(route.retries) for route in arrived.routes}) == 1
    assert len({id(upstream) for provider in arrived.providers for upstream in provider.upstreams}) == 1


def test_a_step_is_one_record() -> None:
    assert sum(1 for _ in packing(SETTINGS)) == 7
    assert sum(1 for _ in unpacking(at_once(packing(SETTINGS)))) == 7
