"""A model server as a gateway's health checks know it: alive or not, with models, metrics and completions."""

from __future__ import annotations

from typing import Self

from upstreams import faults
from upstreams.faulty import Answer, FaultyUpstream, Peer
from upstreams.wire import Received, head

METRICS = (
    'vllm:num_requests_running{{model_name="m"}} {running}\n'
    'vllm:num_requests_waiting{{model_name="m"}} {waiting}\n'
    'vllm:kv_cache_usage_perc{{model_name="m"}} {usage}\n'
)


class Engine(FaultyUpstream):
    """Its attributes may be changed at any time; `asked` counts requests by path."""

    def __init__(self, *models: str) -> None:
        super().__init__(self._route)
        self.models = list(models)
        self.chat: Answer = faults.chat()
        self.health: Answer = faults.raw(faults.json_bytes({}))
        self.running, self.waiting, self.usage = 0, 0, 0.0
        self.asked: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    @property
    def chats(self) -> int:
        """Completions asked for."""
        return self.asked.get("/v1/chat/completions", 0)

    async def _route(self, peer: Peer, request: Received) -> None:
        self.asked[request.target] = self.asked.get(request.target, 0) + 1
        if request.target == "/health":
            await self.health(peer, request)
        elif request.target == "/v1/models":
            await peer.send(faults.json_bytes({"object": "list", "data": [{"id": model} for model in self.models]}))
        elif request.target == "/metrics":
            text = METRICS.format(running=self.running, waiting=self.waiting, usage=self.usage).encode()
            headers = [("content-type", "text/plain"), ("content-length", str(len(text)))]
            await peer.send(head(200, headers, reason="OK") + text)
        else:
            await self.chat(peer, request)
