"""No link in the documentation is dead, and every file that it names exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.markdown import EVERY_PAGE, PAGES, anchors, code_spans, links

LONGEST_README = 150
SITE = [page for page in PAGES if page.parent.name == "docs"]
FOLDERS = (
    "benchmarks/",
    "comic_upscale/",
    "docs/",
    "examples/",
    "scripts/",
    "tests/",
    "training/",
    "weights/",
)


def dead_links(page: Path) -> list[str]:
    """The links of a page to files that are missing, or to headings that a page does not have."""
    dead = []
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    named = [span for span in code_spans(page) if span.startswith(FOLDERS) and " " not in span]
    assert [name for name in named if not any(REPOSITORY.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.name)
def test_pages_of_the_site_link_only_to_each_other(page: Path) -> None:
    """A file outside docs/ is not on the site, so a page there names it instead of linking to it."""
    assert [link for link in links(page) if link.startswith("../")] == []


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, `with` code\n[a](#a-heading-with-code) [b](#b) [c](c.md) [d](page.md#nothing) `[e](e.md)`\n"
        "```sh\n[f](f.md)\n```\n[g](https://example.org/g)\n",
        encoding="utf-8",
    )
    assert dead_links(page) == ["#b", "c.md", "page.md#nothing"]


def test_the_readme_stays_short() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_every_page_of_docs_is_linked_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in links(REPOSITORY / "README.md")}
    assert {f"docs/{page.name}" for page in SITE if page.name != "index.md"} - linked == set()
