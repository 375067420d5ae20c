"""Signals that end a command."""

from __future__ import annotations

import signal
import sys


def ending_signals() -> list[int]:
    """Return the signals that end a command: those of Ctrl-C, of `kill` and of a terminal that goes away.

    One that the process ignores is left out: nohup makes it ignore SIGHUP, which must not change.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def kill_programs() -> None:
    """End the programs of the user's that this process has started. It is about to end itself."""
    # Imported only where one was started.
    program = sys.modules.get("comic_upscale.engines.program")
    if program is not None:
        program.kill_running()
