"""The command `budgateway`, also run by `python -m budgateway`."""

from __future__ import annotations

import sys

from budgateway.system.interpreter import leave_working_directory, open_standard_streams


def main(*, by_module: bool = False) -> None:
    """Run the command line, importing from the installation only, with signals made harmless during the imports."""
    open_standard_streams()
    leave_working_directory(by_module=by_module)
    from budgateway.system.signals import hold

    hold(sys.argv[1:])
    from budgateway.cli.main import main as run

    run()


if __name__ == "__main__":
    main(by_module=True)
