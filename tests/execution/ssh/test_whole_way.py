"""`remote upscale` against a real SSH server: the whole way, and everything that breaks on it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from tests.conftest import REPOSITORY, draw
from tests.execution.ssh.conftest import Box, Invoke, small_disk

PAGES = 24


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Pages in two folders; two of them with one name, two with one content, one broken."""
    folder = tmp_path / "pages"
    for number in range(PAGES - 4):
        draw(folder / f"{number % 2}" / f"page {number}.png", number, size=(200, 300))
    draw(folder / "same.png", 100)
    draw(folder / "same.webp", 101)
    shutil.copy(folder / "0" / "page 0.png", folder / "copy of 0.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture
def asked(pages: Path, tiny_weights: Path) -> list[object]:
    return ["--input", pages, "--model", tiny_weights, "--device", "cpu", "--scale", "2.5"]


def outputs(folder: Path) -> dict[str, str]:
    """The files by name, with their hashes: pytest takes for ever to show how two files differ."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and ".comic-upscale" not in path.relative_to(folder).parts
    }


def local_run(pages: Path, output: Path, weights: Path) -> dict[str, str]:
    from comic_upscale.jobs.run import run_job
    from comic_upscale.settings.job import JobSettings

    run_job(JobSettings(input=pages, output=output, model=str(weights), device="cpu", scale=2.5))
    return outputs(output)


def attempts(output: Path) -> dict[int, int]:
    """How many pages were tried how often, by the ledger there."""
    connection = sqlite3.connect(output / ".comic-upscale" / "ledger.sqlite3")
    try:
        query = "select attempts, count(*) from pages where state = 'done' group by attempts"
        return dict(connection.execute(query).fetchall())
    finally:
        connection.close()


def start(box: Box, asked: list[object], tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    """The command in a process of its own, as on a laptop that can be closed."""
    command = [
        sys.executable,
        "-m",
        "comic_upscale",
        "remote",
        "upscale",
        *box.step(),
        "--poll",
        "0.3",
        *map(str, asked),
        *options,
    ]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tmp_path
    )


def wait_for(what: Callable[[], object], seconds: float = 400.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def test_many_pages_end_to_end_whatever_is_cut_and_killed(
    box: Box, remote: Invoke, pages: Path, asked: list[object], tmp_path: Path, tiny_weights: Path
) -> None:
    output = tmp_path / "pages-x2.5"

    def inputs() -> int:
        folder = box.base / "jobs"
        return len(list(folder.glob("*/input/*")))

    def made() -> int:
        return len(list((box.base / "jobs").glob("*/output/*.png")))

    # The laptop is closed while the pages are worked on there...
    with start(box, asked, tmp_path) as laptop:
        wait_for(lambda: made() >= 2)
        laptop.kill()
    # ... the run goes on without it, and is killed in its turn.
    (run,) = box.runs()
    wait_for(lambda: made() >= 5 or not run.is_running())
    run.send_signal(signal.SIGKILL)
    wait_for(lambda: not box.runs())
    sent = {path.name: path.stat().st_mtime_ns for path in box.job().glob("input/*")}

    # The same command continues, though the line is cut under it.
    with start(box, asked, tmp_path) as laptop:
        wait_for(lambda: outputs(output) or laptop.poll() is not None)
        box.cut()
        said, _ = laptop.communicate(timeout=500)
    assert laptop.returncode == 1, said
    assert "retrying" in said
    assert "broken.png" in said

    ours = outputs(output)
    assert len(ours) == PAGES - 1
    assert ours == local_run(pages, tmp_path / "here", tiny_weights)
    assert inputs() == PAGES - 2, "every content once: neither the copy nor the page that cannot be read"
    # Nothing was sent twice: what arrived first is what lies there still.
    assert sent == {path.name: path.stat().st_mtime_ns for path in box.job().glob("input/*")}
    # Nothing was done twice, except pages in flight when the run was killed.
    assert sum(attempts(box.job() / "output").values()) == PAGES - 2
    assert set(attempts(output)) <= {1, 2}
    # Names stay here: nothing there is called like a page of the user's.
    assert not [path for path in box.base.rglob("*page*") if box.job() in path.parents]

    # A run of one's own goes on with the same job, and finds nothing to do.
    ended = CliRunner().invoke(app, ["run", "--quiet", *map(str, asked), "--output", str(output), "--json"])
    assert '"done_now": 0' in ended.stdout.splitlines()[-1], ended.output

    # Looking after it from outside.
    code, out, err = remote("status", *box.options())
    assert code == 0, err
    assert f"{PAGES - 2} of {PAGES - 2} done" in out
    code, out, err = remote("logs", *box.options(), "--lines", 5)
    assert f"{PAGES - 2} of {PAGES - 2} pages done" in out, err
    code, out, err = remote("logs", *box.options(), "--lines", 1, "--follow")
    assert (code, len(out.splitlines())) == (0, 1), "it ends with the run"
    code, out, err = remote("stop", *box.options())
    assert (code, "no run was active" in out) == (0, True), err


def test_a_machine_that_is_lost_costs_only_what_had_not_come_home(
    box: Box, remote: Invoke, tmp_path: Path, tiny_weights: Path
) -> None:
    for number in range(6):
        draw(tmp_path / "pages" / f"{number}.png", number)
    asked = ["--input", tmp_path / "pages", "--model", tiny_weights, "--device", "cpu"]
    marker = tmp_path / "done"
    for step, follows in (("push", "remote run"), ("run", "remote status")):
        code, out, err = remote(step, *box.step(), *asked)
        assert code == 0, out + err
        assert follows in out + err
    wait_for(lambda: not box.runs())
    code, out, err = remote("pull", *box.step(), *asked)
    assert code == 0, out + err
    output = tmp_path / "pages-x2.5"
    assert len(outputs(output)) == 6
    # One page is lost here; the machine is another one now, and is given that page alone.
    (output / "3.png").unlink()
    shutil.rmtree(box.base / "jobs")
    code, out, err = remote("upscale", *box.step(), "--poll", 0.3, "--when-done", f"touch {marker}", *asked)
    assert code == 0, out + err
    assert len(outputs(output)) == 6
    assert len(list(box.job().glob("input/*"))) == 1
    assert marker.exists()


def test_a_full_disk_there_ends_the_run_and_the_same_command_continues(
    box: Box, remote: Invoke, tmp_path: Path, tiny_weights: Path
) -> None:
    with small_disk(box.base / "jobs", "3m"):
        for number in range(16):
            draw(tmp_path / "pages" / f"{number}.png", number, size=(100, 150))
        asked = ["--input", tmp_path / "pages", "--model", tiny_weights, "--device", "cpu"]
        code, out, err = remote("upscale", *box.step(), "--poll", 0.3, *asked)
        assert code in (7, 9), out + err
        assert re.search("full|space|room", err), err
        subprocess.run(["mount", "-o", "remount,size=200m", str(box.base / "jobs")], check=True)
        code, out, err = remote("upscale", *box.step(), "--poll", 0.3, *asked)
        assert code == 0, out + err
    assert len(outputs(tmp_path / "pages-x2.5")) == 16
