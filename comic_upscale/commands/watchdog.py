"""The command ``comic-upscale watchdog``: runs the shell script from the package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import typer

from comic_upscale.errors import RemoteError

_PACKAGE = Path(__file__).resolve().parents[1]
CANDIDATES = (_PACKAGE / "scripts" / "idle_watchdog.sh", _PACKAGE.parent / "scripts" / "idle_watchdog.sh")
"""In an installed package, and in a clone."""


def watchdog(ctx: typer.Context) -> None:
    """Watch this machine, and run a command once it is idle: stop, shut down or destroy it.

    The process becomes scripts/idle_watchdog.sh, with all options, ``--help`` included. The script itself needs no
    Python.
    """
    script = find_watchdog()
    bash = shutil.which("bash")
    if bash is None:
        raise RemoteError("the watchdog needs bash: install it")
    os.execv(bash, [bash, str(script), *ctx.args])


def find_watchdog() -> Path:
    """Return the path of the script.

    Raises:
        RemoteError: it is missing from the package.
    """
    script = next((path for path in CANDIDATES if path.is_file()), None)
    if script is None:
        raise RemoteError("idle_watchdog.sh is missing from the package: reinstall comic-upscale")
    return script


def read_watchdog() -> bytes:
    """Return the script for another machine, which runs Linux.

    Raises:
        RemoteError: it is missing from the package.
    """
    # Git for Windows may have put CRLF into the clone, which bash refuses.
    return find_watchdog().read_bytes().replace(b"\r\n", b"\n")
