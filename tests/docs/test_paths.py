"""The files that the documentation names exist, so that a move or a split of a module cannot leave a page behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.markdown import EVERY_PAGE, code_spans

PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]+\.(?:py|toml|json|sh|yml|service)|(?:[\w-]+/){2,}")
INVENTED = {"commands/hello.py", "benchmarks/results/formats-NAME.json", "build/site/"}
"""Files that a page tells the reader to write, or that a build makes."""
FOLDERS = ("", "comic_upscale")
"""Where a path may begin: docs name the modules of the package with and without its name."""


def paths(page: Path) -> list[str]:
    return [span for span in code_spans(page) if PATH.fullmatch(span)]


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_the_files_that_are_named_exist(page: Path) -> None:
    below = [REPOSITORY / folder for folder in (*FOLDERS, page.parent)]
    missing = [path for path in paths(page) if not any((folder / path).exists() for folder in below)]
    assert [path for path in missing if path not in INVENTED] == []


def test_paths_are_found() -> None:
    assert len(paths(REPOSITORY / "docs" / "architecture.md")) > 20
    assert "comic_upscale/settings/processing.py" in paths(REPOSITORY / "docs" / "development.md")
