"""Programs that this process starts, on Windows: what keeps Ctrl-C away from them, and what ends them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from comic_upscale import processes
from comic_upscale.engines.program import Program
from comic_upscale.errors import ProviderError
from comic_upscale.library.helper_process import Helper, Limits
from comic_upscale.provisioning.program import call_program
from tests.conftest import REPOSITORY
from tests.windows import as_on_windows

NO_WINDOW = 0x08000000


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_windows(monkeypatch, processes)
    # Elsewhere Python knows no such flag, and refuses any.
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", NO_WINDOW, raising=False)


def helper() -> None:
    Helper("tests.odd_child").ask({}, Limits(1, 1, 1 << 30))


@pytest.mark.parametrize(
    "start",
    [
        lambda: Program().run(["program"], Path(), 1),
        lambda: call_program("program", ["status"], 1),
        helper,
    ],
)
def test_programs_have_a_console_of_their_own_on_windows(
    windows: None, monkeypatch: pytest.MonkeyPatch, start: Callable[[], object]
) -> None:
    given: dict[str, Any] = {}

    def note(_words: object, **arguments: Any) -> None:
        given.update(arguments)
        raise OSError("not started")

    monkeypatch.setattr(subprocess, "Popen", note)
    with pytest.raises(Exception, match="not started"):
        start()
    assert given["creationflags"] == NO_WINDOW
    assert "start_new_session" not in given


def test_a_program_is_killed_with_its_children_on_windows(windows: None, tmp_path: Path) -> None:
    started = tmp_path / "pid"
    child = f"import pathlib, os, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent])
    until = time.monotonic() + 60
    while not (started.exists() and started.read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    found = psutil.Process(int(started.read_text()))
    processes.kill_session(process)
    process.wait(60)
    psutil.wait_procs([found], timeout=60)
    assert not found.is_running() or found.status() == psutil.STATUS_ZOMBIE


def test_a_program_that_hangs_is_killed_on_windows(windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.killpg")
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0)
    with pytest.raises(ProviderError, match="did not answer"):
        call_program(sys.executable, ["-c", "import time; time.sleep(600)"], 0.5)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_program_that_may_not_be_killed_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "killpg", refuse)
    monkeypatch.setattr(processes, "_PATIENCE_SECONDS", 0.1)
    began = time.monotonic()
    # As one of another user.
    with pytest.raises(ProviderError, match="did not answer"):
        call_program(sys.executable, ["-c", "import time; time.sleep(20)"], 0.1)
    assert time.monotonic() - began < 15
    monkeypatch.undo()
    for child in psutil.Process().children():
        if "time.sleep(20)" in child.cmdline():
            child.kill()
            child.wait(15)


def test_no_program_is_started_in_another_way() -> None:
    package = REPOSITORY / "comic_upscale"
    found = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "start_new_session" in path.read_text(encoding="utf-8")
    ]
    # What runs on Linux alone says so there.
    assert sorted(found) == ["execution/local/worker_process.py", "processes.py"]
