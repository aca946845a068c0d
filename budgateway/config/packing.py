"""Settings as bytes for another process, packed and unpacked in steps: a thousand routes take 15 ms each way."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Generator

    from budgateway.records import Settings

Packed = NewType("Packed", bytes)


def packing(settings: Settings) -> Generator[None, None, Packed]:
    """Pack settings, one route or provider in a step."""
    stream = io.BytesIO()
    # One pickler: what records have in common is written once, and is one object again when unpacked.
    pickler = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL)
    pickler.dump((replace(settings, providers=(), routes=()), len(settings.providers), len(settings.routes)))
    for record in (*settings.providers, *settings.routes):
        yield
        pickler.dump(record)
    return Packed(stream.getvalue())


def unpacking(packed: Packed) -> Generator[None, None, Settings]:
    """Unpack settings, one route or provider in a step."""
    # Packed by our own parent or child, and passed on over an inherited descriptor: nobody else can write to it.
    unpickler = pickle.Unpickler(io.BytesIO(packed))  # noqa: S301
    settings, providers, routes = unpickler.load()
    records = []
    for _ in range(providers + routes):
        yield
        records.append(unpickler.load())
    whole: Settings = replace(settings, providers=tuple(records[:providers]), routes=tuple(records[providers:]))
    return whole
