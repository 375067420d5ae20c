"""Words of commands that a user copies into a shell."""

from __future__ import annotations

import shlex

import pytest

from comic_upscale.console.text import orphans_line
from comic_upscale.settings import paths
from comic_upscale.settings.paths import quoted
from tests.windows import as_on_windows


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (r"C:\comics\out-x2", r"C:\comics\out-x2"),
        (r"C:\my comics\out", r'"C:\my comics\out"'),
        (r"C:\a&b(1)\out", r'"C:\a&b(1)\out"'),
        ("\\\\nas\\my share\\", r'"\\nas\my share\\"'),
        ("\\\\nas\\R&B\\", r'"\\nas\R&B\\"'),
        (r"C:\it's", r'''"C:\it's"'''),
        (r"C:\漫画", r"C:\漫画"),
        ("", '""'),
    ],
)
def test_windows_gets_double_quotes(monkeypatch: pytest.MonkeyPatch, word: str, expected: str) -> None:
    as_on_windows(monkeypatch, paths)
    assert quoted(word) == expected
    assert f"--job {expected} lists" in orphans_line(1, word)


@pytest.mark.parametrize("word", ["/comics/out", "/my comics/it's", r"back\slash"])
def test_other_shells_get_back_what_was_quoted(word: str) -> None:
    assert shlex.split(quoted(word)) == [word]
