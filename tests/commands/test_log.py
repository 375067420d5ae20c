"""The log file of a run, beside what the terminal shows."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from comic_upscale.cli import app
from tests.conftest import draw


def test_a_log_has_every_page_and_what_failed(tmp_path: Path, tiny_weights: Path) -> None:
    source, log = tmp_path / "in", tmp_path / "logs" / "run.log"
    for number in range(3):
        draw(source / f"{number}.png", number)
    (source / "bad.png").write_bytes(b"no image")
    arguments = [
        "run",
        "--input",
        str(source),
        "--model",
        str(tiny_weights),
        "--device",
        "cpu",
        "--log",
        str(log),
    ]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 1
    assert "done: 0.png" not in first.stdout
    lines = log.read_text(encoding="utf-8").splitlines()
    told = [line.split(" ", 2)[2] for line in lines]
    assert sorted(line for line in told if line.startswith("done: ")) == [
        f"done: {number}.png (60x80)" for number in range(3)
    ]
    assert any(line.startswith("failed: bad.png: ") for line in told)
    assert all(line[:4].isdigit() for line in lines)
    CliRunner().invoke(app, arguments)
    assert log.read_text(encoding="utf-8").splitlines()[: len(lines)] == lines


def test_a_log_that_cannot_be_written_is_an_error_before_the_run(tmp_path: Path, tiny_weights: Path) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    (tmp_path / "file").write_bytes(b"")
    ended = CliRunner().invoke(
        app, ["run", "--input", str(tmp_path / "in"), "--log", str(tmp_path / "file" / "run.log")]
    )
    assert ended.exit_code == 7
    assert "run.log cannot be written" in ended.output
    assert not (tmp_path / "in-x2.5").exists()
