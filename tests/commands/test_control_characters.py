"""No control character of a name or of a ledger reaches a terminal: real processes on a real pseudo-terminal."""

from __future__ import annotations

import os
import re
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from comic_upscale.console.printable import printable, printable_lines
from tests.conftest import LONG, draw, pairs

pty = pytest.importorskip("pty", reason="needs pseudo-terminals")

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u009b31m\x7f\u202e"
OWN_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""Colours and movements of the cursor, as rich writes them. Each is complete, so none of them is hostile text."""


def on_terminal(tmp_path: Path, *arguments: object) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and everything that the terminal was sent."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "comic_upscale", *map(os.fsencode, map(str, arguments))]
    names = ("STATE", "DATA", "CACHE", "CONFIG")
    own = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in names}
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path,
        env={**os.environ, **own, "TERM": "xterm-256color", "COLUMNS": "300"},
    )  # fmt: skip
    os.close(slave)
    sent, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            sent += data
    os.close(master)
    return process.wait(timeout=60), sent.decode()


def check(sent: str) -> None:
    """Assert that only rich's own sequences and line ends are left of the control characters."""
    assert "\x1b]" not in sent and "\x1b[2J\x9b" not in sent
    rest = OWN_SEQUENCES.sub("", sent)
    odd = [char for char in rest if not char.isprintable() and char not in "\r\n"]
    assert not odd, rest


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> tuple[Path, str]:
    """A job over pages with hostile names, run on a terminal; and what the terminal was sent."""
    root = tmp_path_factory.mktemp("job")
    draw(root / "in" / f"a{HOSTILE}.png", 1)
    (root / "in" / f"b{HOSTILE}.png").write_bytes(b"broken")
    (root / "in" / f"a{HOSTILE}.txt").write_text(f"caption {HOSTILE}", encoding="utf-8")
    (root / "in" / f"v{HOSTILE}.cbz").write_bytes(b"PK no more")
    code, sent = on_terminal(
        root,
        "run",
        "-i",
        root / "in",
        "-o",
        root / "out",
        "--model",
        tiny_weights,
        "--device",
        "cpu",
        "--verbose",
    )
    assert code == 1
    return root, sent


def test_a_run_prints_none(job: tuple[Path, str]) -> None:
    check(job[1])
    assert "a\\x1b]0;owned\\x07" in job[1]


def test_the_live_display_of_a_run_is_drawn_with_control_sequences(job: tuple[Path, str]) -> None:
    for sequence in ("[2K", "[1A"):
        assert f"\x1b{sequence}" in job[1]
        assert f"\\x1b{sequence}" not in job[1]


@pytest.mark.parametrize(
    "command",
    # Every third one, except in a long trial.
    [
        ["status", "--job", "out", "--failures", "--suspects"],
        ["status", "--job", "out", "--watch"],
        ["export", "--job", "out", "--format", "csv"],
        ["export", "--job", "out", "--format", "jsonl"],
        ["report", "--job", "out"],
        ["run", "-i", "in", "-o", "out", "--dry-run"],
        ["cost", "-i", "in", "--gpu", "T4"],
        ["evaluate", "--reference", "in", "--candidate", "out"],
        # Names that a pattern of the shell puts into a command line.
        ["run", f"in/a{HOSTILE}.png"],
        ["run", "-i", f"none{HOSTILE}"],
        ["status", "--job", f"none{HOSTILE}"],
        [f"none{HOSTILE}"],
        ["models", "fetch", f"none{HOSTILE}"],
        ["run", "-i", "in", "--format", f"none{HOSTILE}"],
    ][:: 1 if LONG else 3],
    ids=lambda command: " ".join(command[:2]).encode("ascii", "replace").decode(),
)
def test_no_command_prints_any(job: tuple[Path, str], command: list[str]) -> None:
    code, sent = on_terminal(job[0], *command)
    assert code in (0, 1, 2, 3, 4), sent
    assert "Traceback" not in sent
    check(sent)


COLUMNS = (
    "jobs.model", "jobs.input", "runs.device", "runs.error", "runs.host", "pages.error", "pages.error_kind",
    "pages.source", "pages.suspect", "_sqlite_migrations.name",
)  # fmt: skip


@pytest.mark.parametrize(
    ("place", "words"),
    pairs(COLUMNS, ["status --failures --suspects", "export --format csv"])[:: 1 if LONG else 3],
)
def test_no_text_of_a_ledger_is_printed_raw(
    job: tuple[Path, str], tmp_path: Path, place: str, words: str
) -> None:
    table, _, column = place.partition(".")
    folder = tmp_path / "out"
    shutil.copytree(job[0] / "out", folder)
    with closing(sqlite3.connect(folder / ".comic-upscale" / "ledger.sqlite3")) as connection:
        connection.execute(f"update {table} set {column} = ? || rowid", [f"x{HOSTILE}"])
        connection.commit()
    code, sent = on_terminal(tmp_path, *words.split(), "--job", folder)
    assert code in (0, 6), sent
    check(sent)


def test_the_report_escapes_them(job: tuple[Path, str]) -> None:
    on_terminal(job[0], "report", "--job", "out", "--overwrite")
    text = (job[0] / "out" / "report.html").read_text(encoding="utf-8")
    assert "\\x1b]0;owned\\x07" in text
    assert not [char for char in text if not char.isprintable() and char not in "\n\t"]


def test_a_program_gets_an_export_as_it_is(job: tuple[Path, str]) -> None:
    command = [sys.executable, "-m", "comic_upscale", "export", "--job", job[0] / "out", "--format", "csv"]
    out = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    assert f"a{HOSTILE}.png" in out and f"caption {HOSTILE}" in out


def test_spaces_and_line_ends_are_no_control_characters() -> None:
    assert printable("第\u3000一 話\u00a0") == "第\u3000一 話\u00a0"
    assert printable("a\nb\tc\r") == "a\\x0ab\\x09c\\x0d"
    assert printable_lines("a\n\x1bb\n") == "a\n\\x1bb\n"
