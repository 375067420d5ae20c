"""Ctrl-C and SIGTERM before a run has begun: the process ends at once, quietly, with the documented exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from comic_upscale.commands.signals import stop_on_signals
from comic_upscale.execution.stop import StopRequest
from tests.archives import make_zip, pictures
from tests.conftest import LONG, draw, pairs

SIGNALS = [signal.SIGINT, signal.SIGTERM]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


def start(tmp_path: Path, program: str, *arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a Python in which a program ran first."""
    ended = f"{program}\nfrom comic_upscale.start import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", ended, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def end(process: subprocess.Popen[str], limit: float = 60) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=limit)
    finally:
        process.kill()
    return process.returncode, out, err


# A reader that hangs over a file of the input, in Python as a parser does. It says when it is there.
HANG = """
import sys, time
from comic_upscale.library import containers, nested, volume_reader
def hang(*_, **__):
    print("hanging", file=sys.stderr)
    while True:
        time.sleep(0.01)
for module in (containers, nested, volume_reader):
    module.open_container = hang
"""


@pytest.mark.parametrize(
    ("words", "number"), pairs(["run", "run --json", "run --dry-run", "cost --gpu T4"], SIGNALS)
)
def test_a_signal_ends_a_run_that_still_discovers(
    tmp_path: Path, tiny_weights: Path, words: str, number: signal.Signals
) -> None:
    command = words.split()
    make_zip(tmp_path / "in" / "v.cbz", pictures(1))
    more = ["--output", tmp_path / "out"] if command[0] == "run" else []
    process = start(tmp_path, HANG, *command, "--input", tmp_path / "in", "--model", tiny_weights, *more)
    assert process.stderr is not None
    assert process.stderr.readline() == "hanging\n"
    time.sleep(0.2)
    process.send_signal(number)
    code, _, err = end(process)
    assert (code, err) == (128 + number, "")
    assert not (tmp_path / "out").exists()


# Sends a signal to this very process when a module is about to be imported.
AT_IMPORT = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("module", "number"),
    pairs(["comic_upscale.cli", "typer.core", "comic_upscale.commands.status", "sqlite3", "psutil"], SIGNALS),
)
def test_a_signal_during_imports_ends_quietly(tmp_path: Path, module: str, number: signal.Signals) -> None:
    program = AT_IMPORT.format(module=module, number=int(number))
    # Nothing has imported these modules before.
    process = start(tmp_path, program, "status", "--job", tmp_path)
    assert end(process) == (128 + number, "", "")


@pytest.mark.parametrize("number", SIGNALS[: None if LONG else 1], ids=lambda number: number.name)
def test_a_signal_while_pytorch_is_imported_ends_quietly(
    tmp_path: Path, tiny_weights: Path, number: signal.Signals
) -> None:
    draw(tmp_path / "in" / "a.png", 1)
    program = AT_IMPORT.format(module="torch.nn", number=int(number))
    run = ("run", "--input", tmp_path / "in", "--output", tmp_path / "out", "--model", tiny_weights)
    code, _, err = end(start(tmp_path, program, *run, "--device", "cpu"))
    assert (code, err) == (128 + number, "")


# A command that is interrupted while a temporary file exists.
CLEAN_UP = """
import os, signal, time
from pathlib import Path
from comic_upscale.ledger import recent
def choose(*_):
    part = Path("part")
    part.write_text("half")
    try:
        os.kill(os.getpid(), {number})
        time.sleep(60)
    finally:
        part.unlink()
recent.choose_job = choose
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_lets_a_command_clean_up(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, CLEAN_UP.format(number=int(number)), "export", "--format", "csv")
    assert end(process) == (128 + number, "", "")
    assert not (tmp_path / "part").exists()


# Code that takes every exception for an error of its own, and goes on.
STUBBORN = """
import os, time
from comic_upscale.ledger import recent
def choose(*_):
    os.kill(os.getpid(), {number}) if not tried else None
    tried.append(1)
    time.sleep(60)
tried = []
def stubborn(*_):
    while True:
        try:
            choose()
        except BaseException:
            pass
recent.choose_job = stubborn
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_code_that_swallows_it(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, STUBBORN.format(number=int(number)), "export", "--format", "csv")
    assert end(process) == (128 + number, "", "")


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    ignoring = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    send = AT_IMPORT.format(module="comic_upscale.commands.status", number=int(signal.SIGINT))
    process = start(tmp_path, f"{ignoring}\n{send}", "status", "--job", tmp_path)
    code, _, err = end(process)
    assert (code, "contains no ledger" in " ".join(err.split())) == (3, True)


def test_ctrl_break_of_windows_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    # Any signal stands for the one that only Windows has.
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    # Without a handler, it would end the tests.
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    stop = StopRequest()
    try:
        with stop_on_signals(stop) as received:
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (received, stop.requested) == ([signal.SIGUSR1], True)
