"""Names stay the same in every locale: of outputs, in the ledger, in exports and in captions."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from comic_upscale.ledger.status import read_status
from tests.archives import make_zip, pictures, read_cbz
from tests.conftest import LONG, draw
from tests.engines.test_command import QUICK_ENGINE

NAME = "Überraschung 猫 — №1"
LOCALES = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "C": {"LC_ALL": "C"},
    "C without UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "no such locale": {"LC_ALL": "xx_XX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "Latin-1": {"LC_ALL": "de_DE.ISO-8859-1"},
    "ASCII output": {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "ascii"},
}
OTHERS = {"UTF-8": "C without UTF-8 mode", "C without UTF-8 mode": "Latin-1", "Latin-1": "UTF-8"}
"""Locales under which a job of another one goes on."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="elsewhere the encoding of names has no locale")


def environment(locale: str) -> dict[str, str]:
    """This process's environment under another locale."""
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))
    }
    return {**plain, **LOCALES[locale]}


def run(tmp_path: Path, locale: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    states = {f"XDG_{name}_HOME": str(tmp_path / "state") for name in ("STATE", "DATA", "CACHE")}
    command = [sys.executable, "-m", "comic_upscale", *(os.fsencode(str(each)) for each in arguments)]
    return subprocess.run(
        command, capture_output=True, timeout=120, cwd=tmp_path, env={**environment(locale), **states}
    )


def fill(folder: Path) -> Path:
    draw(folder / f"{NAME}.png", 1)
    (folder / f"{NAME}.txt").write_text(f"caption {NAME}", encoding="utf-8")
    make_zip(folder / NAME / f"{NAME}.cbz", {f"{NAME}.png": pictures(1)["p01.png"]})
    return folder


@pytest.mark.parametrize("locale", list(LOCALES) if LONG else ["C without UTF-8 mode", "Latin-1"])
def test_names_are_written_as_they_are(tmp_path: Path, locale: str) -> None:
    source, output = fill(tmp_path / f"in {NAME}"), tmp_path / f"out {NAME}"
    job = ("run", "-i", source, "-o", output, *QUICK_ENGINE)
    ended = run(tmp_path, locale, *job, "--verbose")
    assert (ended.returncode, ended.stderr) == (0, b"")
    found = sorted(
        str(path.relative_to(output)) for path in output.rglob("*") if ".comic-upscale" not in path.parts
    )
    assert found == sorted([f"{NAME}.png", f"{NAME}.txt", NAME, f"{NAME}/{NAME}.cbz"])
    assert list(read_cbz(output / NAME / f"{NAME}.cbz")) == [f"{NAME}.png"]
    status = read_status(output / ".comic-upscale" / "ledger.sqlite3")
    assert (status.input, status.output) == (str(source), str(output))
    if other := OTHERS.get(locale):
        again = run(tmp_path, other, *job, "--json")
        last = json.loads(again.stdout.splitlines()[-1])
        assert (again.returncode, last["done"], last["done_now"]) == (0, 2, 0)
    exported = run(tmp_path, locale, "export", "--job", output, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(exported.stdout.decode())))
    assert {row["file"]: row["caption"] for row in rows} == {
        f"{NAME}.png": f"caption {NAME}",
        f"{NAME}/{NAME}.cbz/{NAME}.png": "",
    }


@pytest.mark.parametrize("locale", ["UTF-8", "C without UTF-8 mode", "Latin-1"][:: 1 if LONG else 2])
def test_names_that_are_no_utf8_are_escaped_the_same_way(tmp_path: Path, locale: str) -> None:
    source = tmp_path / "in"
    page = draw(source / "a.png", 1)
    try:
        page.rename(os.fsdecode(os.fsencode(source) + b"/caf\xe9 100%.png"))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    output = tmp_path / "out"
    ended = run(tmp_path, locale, "run", "-i", source, "-o", output, *QUICK_ENGINE, "--json")
    assert (ended.returncode, ended.stderr) == (0, b"")
    # A byte that is no UTF-8 cannot be stored as text: docs/troubleshooting.md says how it is written.
    assert [path.name for path in output.glob("*.png")] == ["caf%E9 100%25.png"]
    lines = run(tmp_path, locale, "export", "--job", output, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["caf%E9 100%25.png"]


def test_utf8_mode_costs_no_second_start_where_it_is_not_needed(tmp_path: Path) -> None:
    program = (
        "import os; os.execv = lambda *_: print('again');"
        "from comic_upscale.start import use_utf8; use_utf8(); print('done')"
    )
    for locale, words in (("UTF-8", "done"), ("C", "done"), ("C without UTF-8 mode", "again\ndone")):
        out = subprocess.check_output([sys.executable, "-c", program], text=True, env=environment(locale))
        assert out.strip() == words, locale
