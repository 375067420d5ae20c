"""Steps that end their process, for the tests of worker processes. Processes import them from here."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from comic_upscale.execution.local.steps import Decoded, PageSize, PageSteps


class OddSteps(PageSteps):
    """Steps that a page with a certain colour ends, and that fail in an unusual way for another."""

    KILLS, FAILS, HANGS = (1, 2, 3), (3, 2, 1), (2, 1, 3)

    def decode(
        self,
        data: bytes,
        size: PageSize,
        sha256: str,
        source: str = "",
        points: tuple[int, int] | None = None,
    ) -> Decoded:
        """Decode a page, unless it is odd."""
        decoded = super().decode(data, size, sha256, source, points)
        color: Any = tuple(decoded.pixels.color[0, 0])
        if color == self.KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if color == self.HANGS:
            time.sleep(600)
        if color == self.FAILS:
            raise UnpicklableError(lambda: None)
        return decoded


class UnpicklableError(Exception):
    """Holds something that cannot be pickled."""
