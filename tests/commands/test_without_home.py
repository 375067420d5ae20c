"""A user without a home folder, as in a container, and paths that only look like one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from comic_upscale.settings.paths import absolute
from tests.conftest import draw

NOBODY = 41_234
"""The number of a user whom no system knows."""
PROGRAM = f"import os; os.setgid({NOBODY}); os.setuid({NOBODY}); from comic_upscale.cli import main; main()"

as_nobody = pytest.mark.skipif(
    not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can become a user whom no system knows"
)


def run_without_home(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("XDG_")
    }
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env={**environment, "TMPDIR": str(folder)}, cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    readable = (Path(sys.executable), Path(__file__))
    if not all(each.stat().st_mode & 0o001 for path in readable for each in path.resolve().parents):
        pytest.skip("other users cannot read this Python or this checkout")
    # Other users cannot enter the folder of pytest.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name).resolve()


@as_nobody
def test_a_run_and_its_status_work_without_a_home_folder(folder: Path) -> None:
    draw(folder / "in" / "a.png", 1)
    ended = run_without_home(folder, "run", "--input", "in", "--scale", 2, "--device", "cpu")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "1 of 1 done" in run_without_home(folder, "status").stdout
    assert (folder / f"comic-upscale-{NOBODY}").stat().st_mode & 0o777 == 0o700
    # An older platformdirs makes a folder of this name.
    assert not (folder / "~").exists()


@as_nobody
def test_a_folder_that_another_user_prepared_is_not_used(folder: Path) -> None:
    (folder / f"comic-upscale-{NOBODY}").mkdir(mode=0o777)
    ended = run_without_home(folder, "status")
    assert ended.returncode == 2
    assert "belongs to another user: set the variable HOME" in ended.stderr
    assert "Traceback" not in ended.stderr


@as_nobody
def test_a_remote_machine_needs_a_home_folder_and_says_so(folder: Path) -> None:
    ended = run_without_home(folder, "remote", "check", "box")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr


def test_a_name_that_begins_with_a_tilde_stays_if_there_is_no_such_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute(Path("~nobody-has-this-name/a")) == tmp_path / "~nobody-has-this-name" / "a"
