"""The engines of this machine, asked in a process of its own: their packages are not imported into the server."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

log = logging.getLogger(__name__)

_SECONDS = 60.0


class EngineList:
    """The engines, with their options; asked once, and remembered."""

    def __init__(self) -> None:
        self._known: list[dict[str, Any]] | None = None
        self._lock = asyncio.Lock()

    async def get(self) -> list[dict[str, Any]] | None:
        """Return the engines; None if they cannot be listed now."""
        async with self._lock:
            if self._known is None:
                self._known = await _ask()
            return self._known


async def _ask() -> list[dict[str, Any]] | None:
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "comic_upscale", "engines", "list", "--json",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except OSError as error:
        log.error("the engines cannot be listed: %s", error)
        return None
    try:
        output, _ = await asyncio.wait_for(child.communicate(), _SECONDS)
        found: list[dict[str, Any]] = json.loads(output)
        return found
    except (TimeoutError, ValueError) as error:
        log.error("the engines cannot be listed: %s", error or "they took too long")
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
