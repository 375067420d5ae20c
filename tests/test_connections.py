"""Every test closes its connections to SQLite. Python 3.13 warns of others, some time later, in any other test."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY

FOLDERS = ("comic_upscale", "tests", "benchmarks", "scripts", "training")


def unclosed(source: str) -> Iterator[int]:
    """Yield the lines with a connection that is neither given to somebody nor kept under a name that is closed."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    closed = {
        ast.unparse(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "close"
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "sqlite3.connect"):
            continue
        parent = parents[node]
        if isinstance(parent, ast.Assign):
            names = {ast.unparse(target) for target in parent.targets}
        elif isinstance(parent, ast.withitem):
            names = {ast.unparse(parent.optional_vars)} if parent.optional_vars else set()
        elif isinstance(parent, ast.Call | ast.Return):
            continue
        else:
            names = set()
        if not names & closed:
            yield node.lineno


def test_every_connection_is_closed() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for folder in FOLDERS
        for path in sorted((REPOSITORY / folder).rglob("*.py"))
        if "sqlite3.connect" in (text := path.read_text(encoding="utf-8"))
        for line in unclosed(text)
    ]
    assert found == [], "use `with closing(sqlite3.connect(...))`"


@pytest.mark.parametrize(
    ("code", "is_closed"),
    [
        ("with closing(sqlite3.connect(p)) as c: pass", True),
        ("c = sqlite3.connect(p)\nc.close()", True),
        ("with sqlite3.connect(p) as c: pass\nc.close()", True),
        ("def f(): return sqlite3.connect(p)", True),
        ("c = sqlite3.connect(p)", False),
        ("with sqlite3.connect(p) as c: pass", False),
        ("sqlite3.connect(p).execute(s).close()", False),
    ],
)
def test_what_counts_as_closed(code: str, is_closed: bool) -> None:
    assert (list(unclosed(code)) == []) is is_closed
