"""Each library that the package requires has a reason in docs/dependencies.md."""

from __future__ import annotations

import re
import tomllib

from tests.conftest import REPOSITORY

NAMES = {"torch": "pytorch"}
"""Libraries that the page calls by another name."""


def test_each_required_library_has_a_reason() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    required = {re.split(r"[^\w-]", line)[0] for group in groups for line in group}
    text = (REPOSITORY / "docs" / "dependencies.md").read_text(encoding="utf-8")
    taken = text[: text.index("## Weighed and not taken")].casefold()
    explained = {
        name
        for cell in re.findall(r"^\| ([^|]+) \|", taken, re.MULTILINE)
        for name in re.findall(r"[\w-]+", cell)
    }
    assert {NAMES.get(name, name) for name in required} <= explained
