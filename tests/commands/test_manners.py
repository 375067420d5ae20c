"""What a newcomer would stumble over: counts of a first run, refused commands, tables on a narrow terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.commands.evaluate import _print_table
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.sizes import Width
from tests.conftest import draw


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_nothing_has_failed_before_a_first_run(tmp_path: Path, tiny_weights: Path) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    (tmp_path / "in" / "bad.cbz").write_bytes(b"no archive")
    run = (
        "run",
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--model",
        tiny_weights,
        "--device",
        "cpu",
    )
    code, out, _ = invoke(*run)
    assert code == 1
    assert "failed before" not in out
    assert "failed: bad.cbz" in out
    assert "1 of 2 pages done, 1 failed" in out
    # It has failed before the second run, which has nothing new to say about it.
    assert "1 failed before" in invoke(*run)[1]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--max-cost", "1"), 2),
        (("--device", "cuda:77"), 5),
        (("--model", "comic-fast", "--max-cost", "1"), 2),
    ],
)
def test_a_refused_command_is_not_taken_for_the_newest_job(
    tmp_path: Path, tiny_weights: Path, options: tuple[str, ...], code: int
) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    run = ("run", "--input", tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu")
    assert invoke(*run, "--model", tiny_weights)[0] == 0
    # Another size would be another job.
    assert invoke(*run, "--model", tiny_weights, "--scale", 3, "--redo", *options)[0] == code
    status = json.loads(invoke("status", "--job", tmp_path / "out", "--json")[1])
    assert (status["state"], status["done"], status["run_state"]) == ("finished", 1, "finished")
    assert (
        invoke("export", "--job", tmp_path / "out", "--format", "csv", "--output", tmp_path / "all.csv")[0]
        == 0
    )
    assert "a.png" in (tmp_path / "all.csv").read_text(encoding="utf-8")


def test_a_first_run_that_is_refused_says_so_in_the_status(tmp_path: Path, tiny_weights: Path) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    run = ("run", "--input", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_weights)
    assert invoke(*run, "--device", "cuda:77")[0] == 5
    assert "the run failed" in invoke("status", "--job", tmp_path / "out")[1]


def test_settings_need_no_output(tmp_path: Path) -> None:
    assert JobSettings(input=tmp_path / "pages").output == tmp_path / "pages-x2.5"
    assert JobSettings(input=tmp_path / "pages", scale=2).output == tmp_path / "pages-x2"
    assert JobSettings(input=tmp_path / "pages", size=Width(900)).output == tmp_path / "pages-w900"


def test_a_table_cuts_no_name_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = (
        "RealESRGAN_x4plus_anime_6B",
        "a-very-long-name-of-a-network-that-somebody-has-trained-at-home-x4",
    )
    scores = (
        "psnr",
        "ssim",
        "ms_ssim",
        "gmsd",
        "shift",
        "lpips",
        "white_kept",
        "black_kept",
        "seconds_a_page",
    )
    _print_table("model", [{"model": name, **dict.fromkeys(scores, 12.3456)} for name in names], scores)
    out = capsys.readouterr().out
    assert "…" not in out
    first = "".join(line[:12].strip() for line in out.splitlines()[1:])
    assert all(len(line.rstrip()) <= 80 for line in out.splitlines())
    for name in names:
        assert name[:8] in first or name[:8] in out
        assert all(part in out.replace("\n", "") or part in first for part in (name[-4:],))
    assert out.count("12.3") >= 2 * len(scores)
