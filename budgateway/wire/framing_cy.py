"""llhttp's side of a message: what the parser of record said of it."""

from __future__ import annotations


class Framing:
    """Callbacks for an httptools parser, as few as can be: each costs as much as scanning a head."""

    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        """The last byte was read."""
        self.complete = True
