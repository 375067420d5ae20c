"""Signals that end a command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comic_upscale.execution.stop import StopRequest


def ending_signals() -> list[int]:
    """Return the signals that end a command: those of Ctrl-C, of `kill` and of a terminal that goes away.

    One that the process ignores is left out: nohup makes it ignore SIGHUP, which must not change.
    """
    # SIGBREAK is Ctrl-Break on Windows. When a console is closed, Windows ends the process before a handler runs.
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def kill_programs() -> None:
    """End the programs of the user's that this process has started. It is about to end itself."""
    # Imported only where one was started.
    program = sys.modules.get("comic_upscale.engines.program")
    if program is not None:
        program.kill_running()


@contextmanager
def stop_on_signals(
    stop: StopRequest,
    *,
    before_exit: Callable[[], None] | None = None,
    at_once: Callable[[], bool] = lambda: False,
) -> Iterator[list[int]]:
    """Inside the block, the first signal that ends a command stops gracefully, and the second ends the process at once.

    The block receives the list of the signals that have come.

    Args:
        stop: is requested by the first signal.
        before_exit: called before the process ends at once. An error that it raises is lost.
        at_once: whether the first signal ends the process at once, too.
    """
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1 or at_once():
            kill_programs()
            if before_exit is not None:
                # The terminal may be gone, for instance.
                with contextlib.suppress(Exception):
                    before_exit()
            os._exit(128 + number)
        stop.request(signal.Signals(number).name)

    before = {number: signal.getsignal(number) for number in ending_signals()}
    for number in before:
        signal.signal(number, handle)
    try:
        yield received
    finally:
        # After a signal the process is about to end, and a second signal must still end it with its own code.
        if not received:
            for number, handler in before.items():
                signal.signal(number, handler)
