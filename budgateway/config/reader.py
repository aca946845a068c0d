"""Reading the configuration in a short-lived process.

The schema's library and its objects take 11 MiB and are needed for milliseconds, but a supervisor runs for months.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import select
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from budgateway.config.packing import Packed, packing, unpacking
from budgateway.errors import ConfigError, GatewayError
from budgateway.system import interpreter
from budgateway.system.priority import give_way
from budgateway.system.signals import shielding
from budgateway.system.slices import at_once, unhurried

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from io import BufferedRWPair

    from budgateway.records import Settings

# Not as __main__: the receiver must find the classes it unpickles.
# Without taking the interpreter down, which a start would wait for.
RUN = "import os; from budgateway.config.reader import main; main(); os._exit(0)"
READ_S = 60.0  # limit for reading; a file system that hangs would take forever
END_S = 2.0  # for an idle process to end
KEEP_S = 10.0  # how long a process waits for the next reload, so that reloads in a row are fast

_log = logging.getLogger("budgateway.config")


@dataclass(frozen=True, slots=True)
class Wish:
    """A request: read the demo's configuration, or the one at `path`, with the command line's options. `keep_s` is how
    long the process then waits for the next one; 0 at a start, which is the only request of its process."""

    path: str | None
    demo: bool
    options: Mapping[str, Any]
    keep_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """The result of reading."""

    packed: Packed | None = field(default=None, repr=False)  # with secrets
    problems: tuple[str, ...] = ()
    hint: str = ""
    files: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    defect: str = ""


class Reader:
    """Reads the current configuration when called. Raises ConfigError as `load_config` does, GatewayError when no
    process can read it. Blocks; one call at a time."""

    def __init__(
        self, path: str | None = None, *, demo: bool = False, timeout_s: float = READ_S, **options: Any
    ) -> None:
        self._timeout_s = timeout_s
        self._stopped = False
        self._wish = partial(Wish, path, demo, options)
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: BufferedRWPair | None = None
        self._asked = False

    def begin(self) -> None:
        """Start reading in the background: the next call only waits for the result, and then ends the process."""
        with self._turn:
            self._ask(0.0)
            self._asked = True

    def __call__(self) -> Settings:
        with self._turn:
            asked, self._asked = self._asked, False
            if not asked:
                self._ask(KEEP_S)
            found = self._answer()
            if found is None and not asked and not self._stopped:
                # The idle process had ended just before the request.
                self._ask(KEEP_S)
                found = self._answer()
            if asked:
                self._drop()
        if found is None:
            raise GatewayError("the process that reads the configuration ended")
        if found.defect:
            raise GatewayError(f"the configuration cannot be read: {found.defect}")
        if found.packed is None:
            raise ConfigError(list(found.problems), hint=found.hint, files=found.files)
        return at_once(unpacking(found.packed)) if asked else unhurried(unpacking(found.packed))

    @property
    def pid(self) -> int | None:
        """The pid of the current reading process, or None."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process, until the next call."""
        with self._turn:
            self._drop()

    def stop(self) -> None:
        """Abort a call that runs in another thread, and every later one."""
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def _ask(self, keep_s: float) -> None:
        try:
            if self._process is None or self._process.poll() is not None:
                self._start()
            assert self._pipe is not None
            pickle.dump(self._wish(keep_s), self._pipe)
            self._pipe.flush()
        except (BrokenPipeError, TimeoutError):
            pass  # there will be no answer
        except OSError as error:
            raise GatewayError(f"cannot start a process to read the configuration: {error}") from error

    def _start(self) -> None:
        self._drop()
        ours, theirs = socket.socketpair()
        ours.settimeout(self._timeout_s)
        with ours, theirs:
            # In the directory and environment in which the gateway was started. Signals are not meant for it.
            with shielding():
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [*interpreter.command(), "-c", RUN, str(theirs.fileno())], env=interpreter.environment(),
                    pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
            self._pipe = ours.makefile("rwb")

    def _answer(self) -> Found | None:
        """Return the result, or None when the process has ended."""
        assert self._pipe is not None
        try:
            # Written by our own child, over a descriptor that nobody else has.
            found: Found = pickle.load(self._pipe)  # noqa: S301
        except (EOFError, ConnectionError, pickle.UnpicklingError):
            self._drop()
            return None
        except TimeoutError:
            if self._process is not None:
                self._process.kill()
            self._drop()
            raise GatewayError(
                f"the configuration was not read within {self._timeout_s:g} s: does its file system respond?"
            ) from None
        return found

    def _drop(self) -> None:
        if self._pipe is not None:
            try:
                self._pipe.close()
            except OSError:
                pass  # unsent data of an earlier request
            self._pipe = None
        if self._process is not None:
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                # One in a file system that hangs does not even die; it is not waited for any longer.
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_S)
            self._process = None


def read(wish: Wish) -> Found:
    """Read the configuration that is requested."""
    from budgateway.config.demo import demo_settings
    from budgateway.config.load import load_config

    load: Callable[..., Settings] = demo_settings if wish.demo else partial(load_config, wish.path)
    try:
        return Found(at_once(packing(load(**wish.options))))
    except ConfigError as error:
        return Found(problems=tuple(error.problems), hint=error.hint, files=error.files)
    except Exception as error:  # noqa: BLE001 - the edge of what an operator may write
        _log.exception("reading the configuration failed")
        return Found(defect=f"internal error ({type(error).__name__})")


def main() -> None:
    """Read whenever the parent requests it; exit after a time without requests."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    pipe = sock.makefile("rwb")
    keep_s: float | None = None
    gc.disable()  # the imports and the first reading leave no garbage, and the collector takes an eighth of their time
    while select.select([sock], [], [], keep_s)[0]:
        try:
            wish: Wish = pickle.load(pipe)  # noqa: S301 - our own parent's
        except EOFError:
            return
        if wish.keep_s:
            give_way()  # to the workers: only a start waits for what is read, a reload has time
        try:
            pickle.dump(read(wish), pipe)
            pipe.flush()
        except ConnectionError:
            os._exit(0)  # the gateway was stopped during its start: the result is not needed
        keep_s = wish.keep_s
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
