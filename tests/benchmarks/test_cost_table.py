"""The page about costs says what the command says."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.cost_table import BEGIN, END, PAGE, clock, replaced, table
from comic_upscale.cli import app


def test_the_pages_table_is_what_the_command_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATE", "CACHE", "DATA", "CONFIG"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path))

    def ask(arguments: list[str]) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0
        return result.stdout

    lines = table(ask)
    assert f"{BEGIN}\n{lines}\n{END}" in PAGE.read_text(encoding="utf-8"), (
        "run: python benchmarks/cost_table.py --write"
    )


def test_a_table_replaces_the_one_before() -> None:
    text = f"a\n{BEGIN}\nold\n\n{END}b\n"
    assert replaced(text, "new\n") == f"a\n{BEGIN}\nnew\n\n{END}b\n"
    assert (clock(90), clock(3725)) == ("2 min", "1 h 02")
