"""Programs that this process starts: what keeps Ctrl-C away from them, and what ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any


def own_session() -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a program that Ctrl-C in our terminal does not reach."""
    if os.name == "nt":
        # Windows has no sessions. What happens in our console does not reach a program with a console of its own.
        return {"creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
    return {"start_new_session": True}


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that was started with `own_session`, with all that it started in its session."""
    if os.name == "nt":
        # Windows has no sessions, so the children are looked for.
        _kill_with_children(process)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _kill_with_children(process: subprocess.Popen[bytes]) -> None:
    import psutil

    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
