"""A route's `websocket`: that it answers WebSocket handshakes, and within which limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from budgateway.config.words import Seconds, Size, Table


class WebSocketConfig(Table):
    """How a route's WebSockets may be used."""

    idle_timeout: Seconds = 300
    """Seconds without a byte either way (pings count), or without one of the peers reading."""
    max_message_size: Size = 16 << 20
    """Largest message, as it is sent: in bytes or as "10MB"."""
    compression: bool = True
    """Whether the two ends may agree upon permessage-deflate."""


def switch(value: object) -> object:
    """true stands for a table of defaults, false for none."""
    if value is True:
        return {}
    return None if value is False else value


WebSocketSwitch = Annotated[
    WebSocketConfig | None, BeforeValidator(switch, json_schema_input_type=bool | WebSocketConfig)
]
