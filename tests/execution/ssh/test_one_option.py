"""One option more is one line: it is in the help, in JSON both ways, in the fingerprint, and goes to a remote machine.

The package is copied, and the line written into the copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import comic_upscale
from tests.conftest import REPOSITORY, draw
from tests.execution.ssh.conftest import Box

LINE = '    sharpen: Annotated[int, Ge(0), Le(9), Opt("How much lines are sharpened.", fingerprint="if-changed")] = 0\n'
BEFORE = "    skip_larger_than: Annotated[\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder that the changed package can be imported from."""
    folder = tmp_path / "changed"
    shutil.copytree(
        Path(comic_upscale.__file__).parent,
        folder / "comic_upscale",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    weights = REPOSITORY / "weights" / "comic-compact-x3.safetensors"
    if weights.is_file():
        (folder / "weights").mkdir()
        shutil.copy(weights, folder / "weights")
    group = folder / "comic_upscale" / "settings" / "processing.py"
    text = group.read_text()
    assert text.count(BEFORE) == 1
    group.write_text(text.replace(BEFORE, LINE + BEFORE))
    return folder


def python(package: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python with the changed package."""
    environment = {
        **os.environ, "PYTHONPATH": str(package), "COLUMNS": "120", "XDG_STATE_HOME": str(package / "state"),
    }  # fmt: skip
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, env=environment, cwd=package, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


IN_PYTHON = """
from pathlib import Path
from comic_upscale import JobSettings

def settings(**changes):
    return JobSettings(input=Path("/in"), output=Path("/out"), **changes)

assert settings().sharpen == 0
changed = settings(sharpen=3)
assert '"sharpen": 3' in changed.as_json()
assert JobSettings.from_json(changed.as_json()) == changed
assert JobSettings.from_json('{"input": "/in", "output": "/out", "scale": 2.5}').sharpen == 0
assert changed.processing.sharpen == 3
print(settings().fingerprint("weights"), changed.fingerprint("weights"))
try:
    settings(sharpen=10)
except Exception as error:
    print(error)
try:
    JobSettings.from_json('{"input": "/in", "output": "/out", "processing": {"sharpen": 10}}')
except Exception as error:
    print(error)
"""


def test_one_line_is_an_option_in_help_checks_json_and_fingerprint(package: Path) -> None:
    for command in (["run"], ["remote", "upscale"]):
        helped = python(
            package, "-m", "comic_upscale", *command, "--help-all" if command == ["run"] else "--help"
        ).stdout
        assert "--sharpen" in helped
        assert "How much lines are sharpened. Between 0 and 9." in helped
    ended = python(package, "-c", IN_PYTHON)
    assert ended.returncode == 0, ended.stderr
    (prints, terminal, program) = ended.stdout.splitlines()
    before, changed = prints.split()
    assert before == "48d9d3a6ac0d9d091df2d5ccfc560588", "a job that does not ask for it goes on"
    assert changed != before
    assert terminal == "--sharpen must be between 0 and 9, not 10"
    assert program == "processing.sharpen must be between 0 and 9, not 10"


def test_one_line_is_an_option_of_the_run_on_a_remote_machine(
    package: Path, box: Box, tmp_path: Path, tiny_weights: Path
) -> None:
    draw(tmp_path / "pages" / "0.png", 0)
    gray = draw(tmp_path / "pages" / "gray.png", 1, mode="L")
    # The same page at a path that another rule matches. The machine sees no path.
    (tmp_path / "pages" / "scans").mkdir()
    shutil.copy(gray, tmp_path / "pages" / "scans" / "same.png")
    # Rules, levels and the weights of their networks go there, too.
    shutil.copy(tiny_weights, tmp_path / "own.safetensors")
    (tmp_path / "mine.toml").write_text(
        'model = "comic-compact-x3"\n[[rule]]\ngray = true\nmodel = "own.safetensors"\nlevels = "60,190"\n'
        '[[rule]]\npath = "scans/"\nlevels = "50,200"\n',
        encoding="utf-8",
    )
    ended = python(
        package, "-m", "comic_upscale", "remote", "upscale", *box.step(), "--poll", 0.3, "--input", tmp_path / "pages",
        "--output", tmp_path / "out", "--profile", tmp_path / "mine.toml", "--scale", 2, "--sharpen", 4,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "out" / "0.png").is_file()
    there = json.loads((box.job() / "settings.json").read_text())
    assert (there["sharpen"], there["model"]) == (4, "comic-compact-x3")
    rule, by_path = there["rules"]
    assert "scans" not in json.dumps(by_path)
    assert (rule["levels"], Path(rule["model"]).is_relative_to(box.base)) == ("60,190", True)
    notes = {row[0]: row[1] for row in rows(tmp_path / "out", "select source, notes from pages")}
    assert notes["0.png"] is None
    assert "levels: black from 60, white from 190" in notes["gray.png"] and "by a rule" in notes["gray.png"]
    assert "levels: black from 50, white from 200" in notes["scans/same.png"]
    assert len(list((box.job() / "input").iterdir())) == 3
    for output in (tmp_path / "out", box.job() / "output"):
        ((settings,),) = rows(output, "select settings from jobs")
        assert json.loads(settings)["sharpen"] == 4


def rows(output: Path, query: str) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(output / ".comic-upscale" / "ledger.sqlite3")) as connection:
        return connection.execute(query).fetchall()
