"""A route's `websocket`: the switch for WebSocket handshakes, and their limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from budgateway.config.types import Seconds, Size, Table


class WebSocketConfig(Table):
    """Limits of a route's WebSockets."""

    idle_timeout: Seconds = 300
    """Seconds without a byte in either direction (pings count), or with a peer that does not read."""
    max_message_size: Size = 16 << 20
    """Largest message as sent (compressed or not), in bytes or as "10MB"."""
    compression: bool = True
    """Allow client and upstream to negotiate permessage-deflate."""


def switch(value: object) -> object:
    """Turn true into a table of defaults, and false into None."""
    if value is True:
        return {}
    return None if value is False else value


WebSocketSwitch = Annotated[
    WebSocketConfig | None, BeforeValidator(switch, json_schema_input_type=bool | WebSocketConfig)
]
