"""A route's `websocket`: that it answers WebSocket handshakes, and within which limits."""

from __future__ import annotations

from budgateway.config.words import Seconds, Size, Table


class WebSocketConfig(Table):
    """How a route's WebSockets may be used."""

    idle_timeout: Seconds = 300
    """Seconds without a byte either way (pings count), or without one of the two reading."""
    max_message_size: Size = 16 << 20
    """Largest message, as it is sent: in bytes or as "10MB"."""
    compression: bool = True
    """Whether the two ends may agree upon permessage-deflate."""
