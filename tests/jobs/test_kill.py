"""Pulling the plug: a run that is killed at random moments, again and again, ends as if undisturbed."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from comic_upscale.cli import app
from tests.conftest import LONG, draw

# A real run in a real process; only the network is exchanged for a quick one.
PROGRAM = """
import sys
from pathlib import Path
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine, pause
settings = JobSettings(input=Path(sys.argv[1]), output=Path(sys.argv[2]), model=sys.argv[3], workers=2)
finished = run_job(settings, open_engines=lambda *_: [NearestEngine(pause(0.004), limit=4)])
sys.exit(finished.failed > 0)
"""

KILLS = int(os.environ.get("COMIC_UPSCALE_TEST_KILLS", "3"))


def start(pages: Path, output: Path, weights: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(pages), str(output), str(weights)],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.DEVNULL,
    )


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".comic-upscale" not in path.relative_to(folder).parts
    }


@pytest.fixture
def sixty_pages(tmp_path: Path) -> Path:
    for number in range(60):
        draw(tmp_path / "pages" / f"{number % 3}" / f"{number}.png", number, size=(30 + number % 4, 40))
    return tmp_path / "pages"


def test_kills_at_random_moments_change_nothing(
    sixty_pages: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    began = time.monotonic()
    assert start(sixty_pages, tmp_path / "calm", tiny_weights).wait() == 0
    whole = time.monotonic() - began
    expected = outputs(tmp_path / "calm")
    assert len(expected) == 60

    chance = random.Random(7)
    output = tmp_path / "stormy"
    kills = 0
    while kills < KILLS:
        process = start(sixty_pages, output, tiny_weights)
        if kills % 2 == 0:
            # While it works, and not while it starts.
            before = len(outputs(output))
            while process.poll() is None and len(outputs(output)) <= before:
                time.sleep(0.02)
        try:
            process.wait(
                timeout=chance.uniform(0, 0.3) if kills % 2 == 0 else chance.uniform(0.3, 1.0) * whole
            )
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        for path, data in outputs(output).items():
            if not path.endswith(".part"):
                assert data == expected[path], f"{path} is torn after {kills} kills"
        if process.returncode == 0:
            # Done before the last kill: take some pages away, so that there is work to disturb.
            for path in chance.sample(sorted(output.rglob("[0-9]*.png")), 30):
                path.unlink()
    assert start(sixty_pages, output, tiny_weights).wait() == 0
    assert outputs(output) == expected

    connection = sqlite3.connect(output / ".comic-upscale" / "ledger.sqlite3")
    states = dict(connection.execute("select state, count(*) from pages group by state").fetchall())
    sources = connection.execute("select count(distinct source), count(*) from pages").fetchone()
    runs = dict(connection.execute("select state, count(*) from runs group by state").fetchall())
    connection.close()
    assert states == {"done": 60}
    assert sources == (60, 60)
    assert runs["interrupted"] >= 1
    assert "running" not in runs


def command_line(pages: Path, output: Path, weights: Path) -> list[str]:
    return [sys.executable, "-m", "comic_upscale", "run", "--input", str(pages), "--output", str(output),
            "--model", str(weights), "--device", "cpu", "--json"]  # fmt: skip


def heed_ctrl_c() -> None:
    """What a shell starts in the background ignores SIGINT, and hands that on; a user's Ctrl-C is heeded."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)][: 2 if LONG else 1]
)
def test_a_signal_ends_the_command_with_its_own_code_and_the_next_run_continues(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    pages, output = tmp_path / "pages", tmp_path / "out"
    for page in range(30):
        draw(pages / f"{page}.png", page, size=(200, 300))
    command = command_line(pages, output, tiny_weights)
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_ctrl_c
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"page_done"' in line:
                process.send_signal(number)
                break
        rest = process.stdout.read()
        assert process.wait() == code
    assert '"state": "interrupted"' in rest.splitlines()[-1]
    done = list(output.glob("*.png"))
    assert 0 < len(done) < 30
    assert not list(output.glob(".*.part"))
    for path in done:
        with Image.open(path) as image:
            image.load()
    monkeypatch.setenv("XDG_STATE_HOME", environment["XDG_STATE_HOME"])
    finished = CliRunner().invoke(app, command[3:])
    assert finished.exit_code == 0, finished.output
    assert len(list(output.glob("*.png"))) == 30


def test_a_second_signal_ends_the_command_at_once(tmp_path: Path, tiny_weights: Path) -> None:
    # A graceful stop would take many seconds to finish a page this large.
    (tmp_path / "pages").mkdir()
    Image.new("RGB", (4000, 4000)).save(tmp_path / "pages" / "large.png")
    command = command_line(tmp_path / "pages", tmp_path / "out", tiny_weights)
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=heed_ctrl_c
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if '"in_hand": "large.png"' in line:
                break
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - began < 3
