"""Programs that some tests hold ours against, where they are installed."""

from __future__ import annotations

import importlib.util

import pytest

from comic_upscale.engines.realesrgan import INSTALL

needs_program = pytest.mark.skipif(
    importlib.util.find_spec("realesrgan") is None, reason=f"the official program is not installed: {INSTALL}"
)
