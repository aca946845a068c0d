"""Callbacks for llhttp, the parser of record."""

from __future__ import annotations


class Framing:
    """Callbacks for an httptools parser; as few as possible, because each costs as much as scanning a head."""

    def __init__(self) -> None:
        self.complete = False

    def on_message_complete(self) -> None:
        """Note that the message is complete."""
        self.complete = True
