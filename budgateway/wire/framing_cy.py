"""llhttp's side of a message: what the parser of record said of it."""

from __future__ import annotations


class Framing:
    """Callbacks for an httptools parser, as few as can be: each costs as much as scanning a head."""

    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        """The last byte was read."""
        self.complete = True


class HeadFraming(Framing):
    """For who must know where the head ends, because the body is not whole yet."""

    def __init__(self) -> None:
        self.complete = False
        self.head_done = False

    def on_headers_complete(self) -> None:
        """The head was read."""
        self.head_done = True
