"""The table of costs in docs/cost.md, made from what ``comic-upscale cost`` prints.

Usage: python benchmarks/cost_table.py [--write]

The table uses no measurement and no price list of the user's own, so it is the same everywhere. ``--write`` puts it
into docs/cost.md between its marks. A test checks that the page is up to date.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cost.md"
BEGIN, END = "<!-- costs: python benchmarks/cost_table.py --write -->\n", "<!-- end of costs -->\n"
LARGE, OWN = "RealESRGAN_x4plus_anime_6B", "comic-compact-x3"
LINK = "100"
COLUMNS = ((2_000, LARGE), (4_000, LARGE), (10_000, LARGE), (10_000, OWN))

Ask = Callable[[list[str]], str]
"""Runs ``comic-upscale`` with these arguments and returns what it prints."""


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = table(ask_the_command)
    if options.write:
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), lines), encoding="utf-8")
    else:
        print(lines, end="")


def table(ask: Ask) -> str:
    """The table in Markdown: one row for the cheapest offer of each GPU, one column for pages and model."""
    columns = [quotes(ask, pages, model) for pages, model in COLUMNS]
    heads = [f"{pages:,} pages, `{model}`" for pages, model in COLUMNS]
    lines = ["| GPU | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for card in columns[0]:
        name = f"{card}: {columns[0][card]['seller']}, {hourly(columns[0][card])}"
        lines.append("| " + " | ".join([name, *(cell(column[card]) for column in columns)]) + " |")
    return "\n".join(lines) + "\n"


def quotes(ask: Ask, pages: int, model: str) -> dict[str, dict[str, Any]]:
    """The cheapest quote for each GPU, by its name."""
    told = json.loads(ask(["cost", "--pages", str(pages), "--model", model, "--link-mbps", LINK, "--json"]))
    best: dict[str, dict[str, Any]] = {}
    # The command lists the cheapest first.
    for quote in told["quotes"]:
        best.setdefault(quote["hardware"], quote)
    return best


def cell(quote: dict[str, Any]) -> str:
    """``1 h 10, $0.42 (0.20-1.10)``."""
    dollars = quote["dollars"]
    ends = f"{dollars['low']:.2f}–{dollars['high']:.2f}"  # noqa: RUF001 - from .. to, in a table
    return f"{clock(quote['seconds']['likely'])}, ${dollars['likely']:.2f} ({ends})"


def clock(seconds: float) -> str:
    """``42 min`` or ``2 h 05``."""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d}"


def hourly(quote: dict[str, Any]) -> str:
    """``$0.34/h``, or the two ends of it."""
    low, high = quote["hour"]["low"], quote["hour"]["high"]
    return f"${low:.2f}/h" if low == high else f"${low:.2f}–{high:.2f}/h"  # noqa: RUF001


def replaced(text: str, lines: str) -> str:
    """The page with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def ask_the_command(arguments: list[str]) -> str:
    """Run the command with empty user folders."""
    with tempfile.TemporaryDirectory() as empty:
        names = ("STATE", "CACHE", "DATA", "CONFIG")
        own = {**os.environ, **{f"XDG_{name}_HOME": empty for name in names}}
        command = [sys.executable, "-m", "comic_upscale", *arguments]
        return subprocess.run(command, env=own, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
