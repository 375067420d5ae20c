"""Finished outputs of other settings: named with the reason before they are replaced, and a terminal is asked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.commands import questions
from comic_upscale.commands import run as run_command
from comic_upscale.engines.torch import device
from tests.archives import make_zip, picture
from tests.conftest import draw


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        draw(tmp_path / "in" / f"{number}.png", number)


def invoke(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def run(weights: Path, *arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
    return invoke(
        "run", "in", "-o", "out", "--model", weights, "--device", "cpu", "-w", 2, *arguments, stdin=stdin
    )


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input counts as a terminal."""
    monkeypatch.setattr(run_command, "has_terminal", lambda: True)


def test_a_dry_run_says_again_and_why(tiny_weights: Path) -> None:
    assert run(tiny_weights, "-s", 2)[0] == 0
    draw(Path("in/new.png"), 9)
    out = run(tiny_weights, "-s", 3, "--format", "png", "--dry-run")[1]
    assert out.count("     again  ") == 3
    assert "4 pages: 3 again, 1 do" in out
    assert "0.png  (made with scale 2)" in out
    assert "do        24x32 -> 72x96" in out
    out = run(tiny_weights, "-s", 2, "--model", "comic-compact-x3", "--raw", "--dry-run")[1]
    assert f"(made with model {tiny_weights.stem}{tiny_weights.suffix}, --raw False)" in out
    pages = json.loads(run(tiny_weights, "-s", 2, "--tile", 64, "--dry-run", "--json")[1])["pages"]
    assert {page["source"]: page["again"] for page in pages} == {
        "0.png": "made with --tile auto", "1.png": "made with --tile auto", "2.png": "made with --tile auto",
        "new.png": None,
    }  # fmt: skip


def test_a_terminal_is_asked(tiny_weights: Path, on_a_terminal: None) -> None:
    # Neither a first run, nor one that continues, has a question.
    assert run(tiny_weights, "-s", 2)[0] == 0
    assert run(tiny_weights, "-s", 2)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
    code, out, err = run(tiny_weights, "-s", 3, stdin="n\n")
    assert code == 2
    assert "3 finished outputs were made with other settings" in err
    assert "other settings" not in out
    assert "nothing was changed" in err
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.png")} == before
    # A refused run leaves no job behind.
    assert json.loads(invoke("status", "--json")[1])["job_id"] == 1
    assert run(tiny_weights, "-s", 3, stdin="y\n")[0] == 0
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.png")} != before


def test_redo_and_scripts_are_not_asked(
    tiny_weights: Path, on_a_terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tiny_weights, "-s", 2)[0] == 0
    assert run(tiny_weights, "-s", 3, "--redo", stdin="n\n")[0] == 0
    monkeypatch.setattr(run_command, "has_terminal", lambda: False)
    assert run(tiny_weights, "-s", 2, stdin="n\n")[0] == 0


def test_a_terminal_is_asked_with_the_default_model_and_device(
    on_a_terminal: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "choose_device", lambda _: torch.device("cpu"))
    assert invoke("run", "in", "-o", "out", "-s", 2.5, "-w", 2)[0] == 0
    before = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
    code, _, err = invoke("run", "in", "-o", "out", "-s", 2, "-w", 2, stdin="n\n")
    assert code == 2
    assert "3 finished outputs were made with other settings and will be replaced" in err
    assert {path.name: path.read_bytes() for path in Path("out").glob("*.png")} == before
    # Whether the machine of a worker has a GPU is not asked for: its socket does not even exist.
    code, _, err = invoke("run", "in", "-o", "out", "-s", 2, "--worker", "socket", stdin="n\n")
    assert (code, "3 finished outputs were made with other settings and may be replaced" in err) == (2, True)


def test_pages_of_earlier_settings_outside_of_the_last_part_are_counted(
    tiny_weights: Path, on_a_terminal: None
) -> None:
    assert run(tiny_weights, "-s", 2)[0] == 0
    one = ("run", "in/0.png", "-o", "out", "--model", tiny_weights, "--device", "cpu", "-w", 2, "-s", 3)
    assert invoke(*one, stdin="y\n")[0] == 0
    code, _, err = run(tiny_weights, "-s", 3, stdin="n\n")
    assert code == 2
    assert "2 finished outputs were made with other settings" in err
    assert run(tiny_weights, "-s", 3, stdin="y\n")[0] == 0
    # Now the last run was about the whole input, and nothing is left to ask.
    assert run(tiny_weights, "-s", 3)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of Windows have no foreground")
def test_only_somebody_who_sees_the_question_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outer, inner = os.openpty()
    with (
        os.fdopen(outer, "wb"), os.fdopen(inner, encoding="utf-8") as terminal, (tmp_path / "log").open("w") as log,
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", terminal)
        monkeypatch.setattr(sys, "stderr", log)
        assert not questions.has_terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert questions.has_terminal()
        monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
        assert not questions.has_terminal(), "in the background"


def test_a_dry_run_says_again_for_the_pages_of_a_volume(tiny_weights: Path, tmp_path: Path) -> None:
    make_zip(tmp_path / "in" / "v.cbz", {f"{number}.png": picture(number) for number in range(2)})
    assert run(tiny_weights, "-s", 2)[0] == 0
    out = run(tiny_weights, "-s", 3, "--dry-run")[1]
    assert "v.cbz/0.png  (made with scale 2)" in out
    assert "5 pages: 5 again" in out


def test_only_pages_of_the_selection_are_counted(tiny_weights: Path, on_a_terminal: None) -> None:
    assert run(tiny_weights, "-s", 2)[0] == 0
    assert run(tiny_weights, "-s", 3, "--redo")[0] == 0
    # The ledger knows these settings for every page, and now only one of them is looked at.
    one = ("run", "in/0.png", "-o", "out", "--model", tiny_weights, "--device", "cpu", "-w", 2, "-s", 2)
    out = invoke(*one, "--dry-run")[1]
    assert "1 page: 1 again" in out
    assert "1 finished output was made with other settings" in out
    assert "1 finished output was made with other settings" in invoke(*one, stdin="n\n")[2]
    assert "1 finished output was made with other settings" in "".join(invoke(*one, "--redo")[1:])
