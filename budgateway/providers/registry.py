"""The registry of adapters: chooses one for each dialect of a destination's clients."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from budgateway import providers
from budgateway.providers.passthrough_cy import Passthrough
from budgateway.wire.dialects import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from budgateway.kinds import Kind
    from budgateway.records import Provider

    # Called with the provider, and the model that replaces the client's ("": none does).
    Maker = Callable[[Provider, str], Passthrough]


def _found() -> dict[tuple[str, str], Maker]:
    """Return the ADAPTERS of every folder of this package."""
    found: dict[tuple[str, str], Maker] = {}
    for info in iter_modules(providers.__path__):
        if info.ispkg:
            found.update(import_module(f"{providers.__name__}.{info.name}").ADAPTERS)
    return found


# (the client's dialect, the upstream's) -> the adapter that translates between them
ADAPTERS = _found()


def spoken_dialects(provider: Provider, kind: Kind) -> tuple[str, ...]:
    """Return the dialects in which a provider is sent requests, by the client's dialect."""
    all_spoken = provider.dialects or kind.dialects
    return tuple(_spoken(name, all_spoken) for name in NAMES)


def adapters_of(provider: Provider, kind: Kind, model: str = "") -> tuple[Passthrough, ...]:
    """Return a destination's adapters by the client's dialect (`x.dialect`). A dialect that the provider speaks passes:
    those that its table lists, or else its kind's. Another is translated to the first of them for which there is an
    adapter. Where there is none, it passes too: the upstream answers as it can."""
    passthrough = Passthrough(provider, model)
    made = []
    for name, spoken in zip(NAMES, spoken_dialects(provider, kind), strict=True):
        maker = ADAPTERS.get((name, spoken))
        made.append(passthrough if maker is None else maker(provider, model))
    return tuple(made)


def _spoken(name: str, all_spoken: tuple[str, ...]) -> str:
    if name in all_spoken:
        return name
    return next((spoken for spoken in all_spoken if (name, spoken) in ADAPTERS), name)
