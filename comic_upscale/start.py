"""The entry point of the command line, and what has to be settled before anything is imported.

Importing the commands takes a moment, and importing PyTorch takes seconds. A signal that arrives meanwhile ends the
process quietly, with the same exit code as later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from comic_upscale.engines.telemetry import disable_telemetry

_SECONDS_TO_CLEAN_UP = 5.0
"""After a signal, temporary files are removed and the terminal is restored. Then the process ends in any case."""

_received: list[int] = []


def main() -> None:
    """Entry point of ``comic-upscale`` and of ``python -m comic_upscale``."""
    handle_signals()
    use_utf8()
    name_libarchive()
    disable_telemetry()
    try:
        from comic_upscale import cli

        cli.main()
    except BaseException:
        if _received:
            sys.exit(128 + _received[0])
        raise
    finally:
        # While the interpreter ends, a handler could only raise an error.
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is _end:
                signal.signal(number, signal.SIG_DFL)


def handle_signals() -> None:
    """End the process quietly on Ctrl-C and SIGTERM, until a run installs its own handlers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A shell ignores SIGINT for jobs in the background: leave that as it is.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def use_utf8() -> None:
    """Start Python again in UTF-8 mode if the locale has another encoding.

    Otherwise the names of files would be decoded by that encoding, and recorded and written with other characters or
    not at all. Programs that this process starts inherit the mode.
    """
    if os.name != "posix" or sys.flags.utf8_mode or os.environ.get("PYTHONUTF8") == "1":
        return
    if sys.getfilesystemencoding().lower() == "utf-8" or not sys.executable:
        return
    os.environ["PYTHONUTF8"] = "1"
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError:
        return


def name_libarchive() -> None:
    """Name the libarchive that is a part of Windows 10 and 11, unless there is another. It is not found by its name."""
    if os.name != "nt" or os.environ.get("LIBARCHIVE"):
        return
    from ctypes.util import find_library

    path = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "archiveint.dll")
    if find_library("archive") is None and path.is_file():
        os.environ["LIBARCHIVE"] = str(path)


def _end(number: int, frame: FrameType | None) -> None:
    if _received or _is_importing(frame):
        # A library may turn an exception during its import into an error of its own.
        os._exit(128 + number)
    _received.append(number)
    # Code that may not raise errors would report the exception.
    sys.unraisablehook = _ignore
    timer = threading.Timer(_SECONDS_TO_CLEAN_UP, os._exit, [128 + number])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _ignore(_: object) -> None:
    """Report nothing."""
