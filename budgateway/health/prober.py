"""The prober: probes every upstream, and writes the results to the segment, where all workers see them."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Protocol

from budgateway.errors import GatewayError
from budgateway.health.engine import read_load, read_models
from budgateway.health.probe_state import SUSPECT_TIMEOUT_S, Answer, ProbeState, fault
from budgateway.system.keeper import keep_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from budgateway.health.engine import Load
    from budgateway.native import Segment
    from budgateway.records import HealthCheck

GENERATE_PATH = "/v1/chat/completions"
MAX_LISTED = 512  # listed models with a label of their own in metrics, of the 2,048 labels that there are
SUSPICION_S = 0.1  # between two checks for upstreams that workers suspect
SPREAD_S = 1.0  # first probes are spread over this time
LOAD_S = 1.0  # between two readings of an engine's load, when the balancer uses it
LOAD_TIMEOUT_S = 2.0
FORGET_AFTER = 3  # consecutive readings without a load: the last one is then outdated

_log = logging.getLogger("budgateway.health")


class Ask(Protocol):
    """Sends one request to an upstream; returns status and body. GatewayError or TimeoutError without a response."""

    def __call__(
        self, target: Any, path: str, timeout_s: float, body: bytes | None = None
    ) -> Coroutine[Any, Any, tuple[int, bytes]]: ...


class ProbedUpstream:
    """One probed upstream: its health check and its latest results."""

    def __init__(self, name: str, slot: int, target: Any, check: HealthCheck) -> None:
        """`target` is passed to `Ask`. `by_load` is set when a balancer uses the engine's load."""
        self.name = name
        self.slot = slot
        self.target = target
        self.check = check
        self.by_load = False
        self.model_prefix = ""  # what clients may write before the names of its models
        self.state = ProbeState()
        self.models: list[str] | None = None
        self.load: Load | None = None
        # index in load_paths where the load was last found; past the end: nowhere
        self.load_path = 0
        self.unheard = 0
        self.suspected = False
        self.suspicions = 0
        self.hindered = ""  # error code of the gateway's own failure that prevented the last probe
        self.wake = asyncio.Event()
        # the request in flight, and the seconds it may take once its upstream is suspected: 0 for one that can be
        # dropped, None for one that is never shortened
        self.timer: asyncio.Timeout | None = None
        self.hurried_s: float | None = None


class Prober:
    """Probes upstreams, with a health and a load task for each. `adopt` follows the configuration; `close` ends it."""

    def __init__(self, segment: Segment, ask: Ask, chance: Callable[[], float] = random.random) -> None:
        self._segment = segment
        self._named: set[str] = set()
        self._ask = ask
        self._chance = chance
        self._probed: dict[int, ProbedUpstream] = {}
        self._tasks: dict[int, list[asyncio.Task[None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._known: set[int] | None = None

    def adopt(self, wanted: Iterable[ProbedUpstream], upstreams: Iterable[tuple[int, bool]]) -> None:
        """Probe these from now on; the state of those that stay is kept. The first of a slot counts.

        `upstreams` are the slots of all upstreams, probed or not, each with True when its provider had others before: a
        new upstream among those gets a slow start.
        """
        chosen: dict[int, ProbedUpstream] = {}
        for one in wanted:
            chosen.setdefault(one.slot, one)
        for slot in [slot for slot in self._probed if slot not in chosen]:
            self._forget(slot)
        for slot, one in chosen.items():
            present = self._probed.get(slot)
            if present is None:
                self._probed[slot] = one
                self._tasks[slot] = [
                    self._keep(f"probing upstream {one.name}", partial(self._probe, one)),
                    self._keep(f"reading the load of upstream {one.name}", partial(self._weigh, one)),
                ]
            else:
                present.name, present.target, present.by_load = one.name, one.target, one.by_load
                if present.check != one.check:
                    present.check = one.check
                    present.load_path = 0
                    present.wake.set()
        there = dict(upstreams)
        if self._known is not None:
            for slot, beside in there.items():
                if slot not in self._known and beside:
                    self._segment.welcome(slot, monotonic_ns())
        self._known = set(there)
        if self._looking is None:
            self._looking = self._keep("checking suspected upstreams", self._look)

    def of(self, slot: int) -> ProbedUpstream | None:
        """The state of an upstream; None when it is not probed."""
        return self._probed.get(slot)

    async def close(self) -> None:
        """Stop probing. Idempotent."""
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        if self._looking is not None:
            tasks.append(self._looking)
        self._tasks.clear()
        self._looking = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ---------------------------------------------------------------- tasks

    def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(keep_on(name, work, _log), name=name)

    def _forget(self, slot: int) -> None:
        for task in self._tasks.pop(slot):
            task.cancel()
        del self._probed[slot]
        self._segment.judge(slot, None, monotonic_ns())
        self._segment.set_models(slot, [])

    async def _look(self) -> None:
        """Probe upstreams at once when workers suspect them."""
        while True:
            await asyncio.sleep(SUSPICION_S)
            for one in self._probed.values():
                if self._segment.take_suspicion(one.slot):
                    one.suspected = True
                    one.suspicions += 1
                    one.wake.set()
                    self._hurry(one)

    def _hurry(self, one: ProbedUpstream) -> None:
        """Shorten the timeout of a request in flight to that of a probe sent now, so that it does not delay one."""
        timer = one.timer
        if timer is None or one.hurried_s is None:
            return
        soonest = asyncio.get_running_loop().time() + one.hurried_s
        when = timer.when()
        if not timer.expired() and (when is None or when > soonest):
            timer.reschedule(soonest)

    async def _probe(self, one: ProbedUpstream) -> None:
        await self._pause(one, self._chance() * min(SPREAD_S, one.check.interval_s))
        while True:
            check = one.check
            try:
                await self._examine(one, check)
            except Exception:  # noqa: BLE001 - a background task's edge: an odd answer must not end the questions
                _log.exception("probing upstream %s failed", one.name)
            await self._pause(one, one.state.pause_s(check, self._chance()))

    async def _examine(self, one: ProbedUpstream, check: HealthCheck) -> None:
        suspected, one.suspected = one.suspected, False
        answer, body = await self._question(one, check, suspected)
        # The upstream may have become suspected during the probe.
        suspected, one.suspected = suspected or one.suspected, False
        if answer is None:
            return
        one.hindered = ""
        self._hear(one, check, answer, suspected)
        if not answer.reason:
            await self._list_models(one, check, body)

    async def _pause(self, one: ProbedUpstream, seconds: float) -> None:
        one.wake.clear()
        if one.suspected:
            return
        try:
            async with asyncio.timeout(seconds):
                await one.wake.wait()
        except TimeoutError:
            pass

    async def _question(self, one: ProbedUpstream, check: HealthCheck, suspected: bool) -> tuple[Answer | None, bytes]:
        """Send one probe; returns its result and the body. None when an error of the gateway's own prevented it."""
        path, body = check.path, None
        if check.generate_model:
            path = GENERATE_PATH
            messages = [{"role": "user", "content": "ok"}]
            body = json.dumps({"model": check.generate_model, "max_tokens": 1, "messages": messages}).encode()
        # A busy engine may need long for a token: do not shorten this probe.
        hurried_s = None if check.generate_model else SUSPECT_TIMEOUT_S
        timeout_s = check.timeout_s if hurried_s is None or not suspected else min(check.timeout_s, hurried_s)
        began_ns = monotonic_ns()
        status, reason, said, silent = 0, "", b"", False
        try:
            status, said = await self._put(one, path, timeout_s, hurried_s, body)
            reason = fault(check, status, said)
        except TimeoutError:
            reason, silent = f"no response within {(monotonic_ns() - began_ns) / 1e9:.1f} s", True
        except GatewayError as error:
            if error.who != "upstream":
                self._hindered(one, error)
                return None, b""
            # Wherever the reason is shown, the name precedes it.
            reason, silent = str(error).removeprefix(f"upstream {one.name}").lstrip(": "), True
        return Answer(time.time(), (monotonic_ns() - began_ns) / 1e6, status, reason, silent), said

    def _hindered(self, one: ProbedUpstream, error: GatewayError) -> None:
        """Log once that an upstream cannot be probed. Its state is kept: nothing was learned about it."""
        if one.hindered != error.code:
            one.hindered = error.code
            _log.warning("upstream %s cannot be probed: %s", one.name, error)

    async def _put(
        self, one: ProbedUpstream, path: str, timeout_s: float, hurried_s: float | None, body: bytes | None = None
    ) -> tuple[int, bytes]:
        one.hurried_s = hurried_s
        try:
            async with asyncio.timeout(timeout_s) as one.timer:
                return await self._ask(one.target, path, timeout_s, body)
        finally:
            one.timer = None

    def _hear(self, one: ProbedUpstream, check: HealthCheck, answer: Answer, suspected: bool) -> None:
        state = one.state
        was = state.healthy
        if not state.hear(answer, check, suspected=suspected):
            return
        self._segment.judge(one.slot, state.healthy, monotonic_ns(), silent=state.silent)
        if state.healthy is was:
            return
        if state.healthy is False:
            _log.warning("upstream %s is unhealthy: %s", one.name, state.reason)
        elif was is False:
            _log.info("upstream %s is healthy again", one.name)

    async def _list_models(self, one: ProbedUpstream, check: HealthCheck, body: bytes) -> None:
        """Update the model list, from the probe's body or by another request. Without a list, the old one is kept."""
        if not check.models_path:
            return
        if check.path != check.models_path or check.generate_model:
            try:
                status, body = await self._put(one, check.models_path, check.timeout_s, 0.0)
            except (GatewayError, TimeoutError):
                return
            if status != 200:
                return
        models = read_models(body)
        if models is not None and models != one.models:
            one.models = models
            self._name(one.model_prefix, models)
            # A pattern matches names that are not in the list.
            exact = not any("*" in model for model in models)
            self._segment.set_models(one.slot, models if exact else [])

    def _name(self, prefix: str, models: list[str]) -> None:
        """Give listed models a label in metrics, up to MAX_LISTED: an upstream that lists others each time must not use
        up the labels of the configuration."""
        for name in dict.fromkeys(name for model in models for name in (prefix + model, model)):
            if name not in self._named and "*" not in name and len(self._named) < MAX_LISTED:
                self._named.add(name)
                self._segment.intern_model(name)

    # ---------------------------------------------------------------- load

    async def _weigh(self, one: ProbedUpstream) -> None:
        await asyncio.sleep(self._chance() * min(SPREAD_S, one.check.interval_s))
        while True:
            check = one.check
            try:
                await self._read_load(one, check)
            except Exception:  # noqa: BLE001 - a background task's edge
                _log.exception("reading the load of upstream %s failed", one.name)
            often = one.by_load and one.load is not None
            pause_s = min(LOAD_S, check.interval_s) if often else check.interval_s
            await asyncio.sleep(pause_s)

    async def _read_load(self, one: ProbedUpstream, check: HealthCheck) -> None:
        """Read the engine's load into the segment; clear it after FORGET_AFTER readings without one."""
        try:
            load = await self._ask_load(one, check)
        except GatewayError:
            return  # an error of the gateway's own: it says nothing about the engine
        if load is not None:
            one.load, one.unheard = load, 0
            self._segment.signal(one.slot, load.running, load.waiting, load.kv_usage, monotonic_ns())
        elif one.load is not None:
            one.unheard += 1
            if one.unheard >= FORGET_AFTER:
                one.load = None
                self._segment.signal(one.slot, 0, 0, 0.0, 0)

    async def _ask_load(self, one: ProbedUpstream, check: HealthCheck) -> Load | None:
        """Request the load from the path where it was last found, else from all paths, once an interval."""
        found = check.load_paths[one.load_path : one.load_path + 1] or check.load_paths
        for path in found:
            try:
                status, body = await self._ask(one.target, path, LOAD_TIMEOUT_S)
            except GatewayError as error:
                if error.who != "upstream":
                    raise
                return None
            except TimeoutError:
                return None
            load = read_load(body) if status == 200 else None
            if load is not None:
                one.load_path = check.load_paths.index(path)
                return load
        one.load_path = len(check.load_paths)
        return None
