"""Every kind of a failed page is explained in docs/troubleshooting.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.docs.markdown import code_spans

PACKAGE = REPOSITORY / "comic_upscale"
NOT_IN_A_RUN = ("evaluation", "estimates")
"""Rooms whose page errors no run sees: the commands that use them print the reasons."""
SKIPPED = {"animated"}
"""Kinds of pages that are skipped, not failed."""


def modules() -> Iterator[Path]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in NOT_IN_A_RUN:
            yield path


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def constant(path: Path, name: str) -> str | None:
    """The text that a name of a module stands for, there or where it is imported from; None for another value."""
    for node in tree_of(path).body:
        if isinstance(node, ast.Assign) and name in [getattr(target, "id", "") for target in node.targets]:
            return node.value.value if isinstance(node.value, ast.Constant) else None
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            source = REPOSITORY.joinpath(*str(node.module).split(".")).with_suffix(".py")
            return constant(source, name) if source.is_file() else None
    return None


def kinds() -> dict[str, str]:
    """The kinds that the package gives a `PageError` by name, each with a place that does."""
    found: dict[str, str] = {}
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PageError" and node.args):
                continue
            given = node.args[0]
            for each in (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,):
                kind = (
                    each.value if isinstance(each, ast.Constant) else constant(path, getattr(each, "id", ""))
                )
                if kind is not None:
                    found[str(kind)] = f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"
    return found


def test_every_kind_of_failure_is_explained() -> None:
    explained = set(code_spans(REPOSITORY / "docs" / "troubleshooting.md"))
    missing = {kind: place for kind, place in kinds().items() if kind not in explained | SKIPPED}
    assert missing == {}


def test_kinds_are_found_as_text_and_as_names() -> None:
    assert {"truncated", "output-exists", "suspect", "command-timeout", "no-pages"} <= kinds().keys()
