"""Programs that some tests hold ours against, where they are installed."""

from __future__ import annotations

import importlib.util
import os

import pytest

from comic_upscale.engines.realesrgan import INSTALL

NO_ACCOUNT = "this user has no account on this system (no line in /etc/passwd), and the program needs one"


def has_account() -> bool:
    """Whether the system knows the user of this process, which ssh and PostgreSQL ask for."""
    if os.name != "posix":
        return True
    import pwd

    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True


needs_program = pytest.mark.skipif(
    importlib.util.find_spec("realesrgan") is None, reason=f"the official program is not installed: {INSTALL}"
)
