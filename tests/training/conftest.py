"""The fonts that pages are lettered in."""

from __future__ import annotations

import pytest

from training.pages import fonts


@pytest.fixture(scope="session")
def comic_fonts() -> None:
    """Skip where the comic fonts are not installed: .ci/run names their packages."""
    try:
        fonts.find("latin")
        fonts.find("japanese")
    except fonts.MissingFontsError as error:
        pytest.skip(str(error))
