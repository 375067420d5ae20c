"""The documentation site builds without a warning, and needs nothing from other hosts."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None,
    reason="Zensical is not installed: pip install --group docs",
)

LOADED = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\"\s>]+)|<link[^>]*\shref=\"?([^\"\s>]+)")


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of what the site is built from."""
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    shutil.copy(REPOSITORY / "mkdocs.yml", tmp_path)
    return tmp_path


def test_the_site_builds_strictly_and_loads_nothing_from_other_hosts(site: Path) -> None:
    result = build(site)
    assert result.returncode == 0, result.stdout + result.stderr
    pages = list((site / "build" / "site").rglob("*.html"))
    assert len(pages) >= len(list((site / "docs").rglob("*.md")))
    loaded = [a or b for page in pages for a, b in LOADED.findall(page.read_text(encoding="utf-8"))]
    assert loaded
    assert [url for url in loaded if "//" in url] == []


@pytest.mark.parametrize("link", ["missing.md", "index.md#missing"])
def test_a_dead_link_stops_the_build(site: Path, link: str) -> None:
    with (site / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[dead]({link})\n")
    assert build(site).returncode != 0


def test_every_page_is_in_the_navigation(site: Path) -> None:
    named = re.findall(
        r"^ +- (?:\w[\w ]*: )?([\w/-]+\.md)$", (site / "mkdocs.yml").read_text(encoding="utf-8"), re.M
    )
    assert sorted(named) == sorted(
        page.relative_to(site / "docs").as_posix() for page in (site / "docs").rglob("*.md")
    )
