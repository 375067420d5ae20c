"""Programs that this process starts: what keeps Ctrl-C away from them, and what ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

import psutil

_PATIENCE_SECONDS = 10.0
"""How long a killed program is waited for."""


def own_session() -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a program that Ctrl-C in our terminal does not reach."""
    if os.name == "nt":
        # Windows has no sessions. What happens in our console does not reach a program with a console of its own.
        return {"creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
    return {"start_new_session": True}


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that was started with `own_session`, and all that it has started, also outside of its session.

    A program of another user cannot be killed, and is not waited for longer than 10 s.
    """
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE_SECONDS)
