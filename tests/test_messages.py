"""The texts of errors are written one way: what happened, then what to do, without a full stop at the end."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import comic_upscale

PACKAGE = Path(comic_upscale.__file__).parent
# The texts of the REST interface are sentences in fields of JSON.
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "server")
RAISING = {"require", "_require", "_refuse", "_no_model", "_no_network"}


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the last text of each literal that is given to an error."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if not (name.endswith("Error") or name in RAISING):
            continue
        for argument in call.args:
            last = (
                argument.values[-1] if isinstance(argument, ast.JoinedStr) and argument.values else argument
            )
            if isinstance(last, ast.Constant) and isinstance(last.value, str):
                yield call.lineno, last.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_the_text_of_an_error_has_no_full_stop_at_its_end(path: Path) -> None:
    found = list(texts(ast.parse(path.read_text(encoding="utf-8"))))
    assert [(line, text) for line, text in found if text.endswith(".") and not text.endswith("..")] == []


def test_the_texts_are_found() -> None:
    tree = ast.parse("raise InputError(f'{path} is gone.')\nrequire(x, 'a' 'b.')\nprint('c.')")
    assert list(texts(tree)) == [(1, " is gone."), (2, "ab.")]
