"""The command ``comic-upscale watchdog``: the shell script of that name, from wherever the package is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import typer

from comic_upscale.errors import RemoteError

_PACKAGE = Path(__file__).resolve().parents[1]
PLACES = (_PACKAGE / "scripts" / "idle_watchdog.sh", _PACKAGE.parent / "scripts" / "idle_watchdog.sh")
"""Inside an installed package, and beside it in a clone."""


def watchdog(ctx: typer.Context) -> None:
    """Watch this machine, and run a command once it does nothing: stop, shut down, destroy.

    All options are those of scripts/idle_watchdog.sh, which this becomes; `comic-upscale watchdog -- --help` shows
    them. The script itself needs no Python.
    """
    script = next((path for path in PLACES if path.is_file()), None)
    if script is None:
        raise RemoteError("idle_watchdog.sh is missing from the package: install comic-upscale again")
    bash = shutil.which("bash")
    if bash is None:
        raise RemoteError("the watchdog needs bash: install it")
    os.execv(bash, [bash, str(script), *ctx.args])
