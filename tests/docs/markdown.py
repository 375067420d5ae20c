"""Reads Markdown for the tests of the documentation: code blocks, code spans, links and anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
"""The pages whose examples are tested."""

EVERY_PAGE = sorted(
    [*PAGES, *(REPOSITORY / name for name in ("CHANGELOG.md", "examples/README.md", "training/README.md"))]
)
"""The pages whose links are tested."""

RUN = "<!-- run -->"
"""Stands before a block whose commands are run, and whose output is compared."""

_FENCE = re.compile(r"^( *)(```+)(\w*)\s*$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block."""

    page: Path
    line: int
    """Of the opening fence, from 1."""
    language: str
    text: str
    """Without the fences and without their indentation."""
    run: bool
    """Whether it is marked to be run."""

    @property
    def place(self) -> str:
        """``docs/sizes.md:12``, for messages and the names of tests."""
        return f"{self.page.relative_to(REPOSITORY).as_posix()}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced code blocks of a page, in order."""
    found, opened, before = [], None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened = (number, fence[1], fence[2], fence[3], before.strip() == RUN)
                body: list[str] = []
            elif line.strip():
                before = line
        elif fence and fence[2] == opened[2] and not fence[3]:
            text = "\n".join(row.removeprefix(opened[1]) for row in body)
            found.append(Block(page, opened[0], opened[3], text, opened[4]))
            opened, before = None, ""
        else:
            body.append(line)
    assert opened is None, f"{page.name}:{opened and opened[0]}: the code block is not closed"
    return found


def prose(page: Path) -> str:
    """The text of a page without its code blocks."""
    kept, fence = [], None
    for line in page.read_text(encoding="utf-8").splitlines():
        match = _FENCE.match(line)
        if fence is None and match:
            fence = match[2]
        elif fence is not None and match and match[2] == fence and not match[3]:
            fence = None
        elif fence is None:
            kept.append(line)
    return "\n".join(kept)


def code_spans(page: Path) -> list[str]:
    """The inline code of a page."""
    return [" ".join(match[2].split()) for match in _SPAN.finditer(prose(page))]


def links(page: Path) -> list[str]:
    """The targets of all links and pictures of a page."""
    return [match[1] for match in _LINK.finditer(_SPAN.sub("", prose(page)))]


def anchors(page: Path) -> set[str]:
    """The anchors that a page offers: one for each heading."""
    return {_slug(match[1]) for match in _HEADING.finditer(prose(page))}


def command_lines(block: Block) -> Iterator[str]:
    """The commands of a shell block, each on one line; of a console block those after a ``$``."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if block.language == "sh":
            yield line
        elif block.language == "console" and line.startswith("$ "):
            yield line[2:]


def _slug(heading: str) -> str:
    """As GitHub and Zensical both make it: they agree on letters, digits, spaces and hyphens."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", plain).strip())
