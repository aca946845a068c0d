"""`python -m benchmarks.load`: the same as `python -m benchmarks.load.compare`."""

from __future__ import annotations

from benchmarks.load.compare import main

if __name__ == "__main__":
    raise SystemExit(main())
