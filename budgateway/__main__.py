"""The command `budgateway`, which `python -m budgateway` is too."""

from __future__ import annotations

import sys

from budgateway.interpreter import leave_working_directory, open_standard_streams


def main(*, by_module: bool = False) -> None:
    """Run the command line, with the installation as the only thing to import from, and with signals that can do no harm while
    it is imported."""
    open_standard_streams()
    leave_working_directory(by_module=by_module)
    from budgateway.signals import hold

    hold(sys.argv[1:])
    from budgateway.cli import main as run

    run()


if __name__ == "__main__":
    main(by_module=True)
