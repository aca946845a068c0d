"""Location of third-party corpora: next to the checkout, never inside it."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("BUDGATEWAY_CORPORA") or ROOT.parent / "shared" / "corpora")
ABSENT = f"no corpora at {FOLDER} (set BUDGATEWAY_CORPORA)"


def files(corpus: str, pattern: str = "**/*") -> list[Path]:
    """The files of one corpus in a stable order, for `parametrize`; empty (a skipped test) when it is absent."""
    return sorted(path for path in (FOLDER / corpus).glob(pattern) if path.is_file())
