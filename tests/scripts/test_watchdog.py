"""The watchdog: real folders and ledgers, a stand-in for `nvidia-smi`, no Python in the script itself."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "idle_watchdog.sh"

pytestmark = pytest.mark.skipif(
    not Path("/proc/net/dev").is_file() or shutil.which("bash") is None, reason="needs Linux and bash"
)

Watchdog = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    """The output folder of a job with one page done and a ledger in use, as a run leaves them."""
    folder = tmp_path / "jobs" / "pages" / "output"
    (folder / ".comic-upscale").mkdir(parents=True)
    (folder / "1.png").write_bytes(b"page")
    connection = sqlite3.connect(folder / ".comic-upscale" / "ledger.sqlite3")
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table pages (state text, finished_at text)")
    connection.execute("insert into pages values ('done', '2026-01-01')")
    connection.commit()
    connection.close()
    return folder


def set_gpu(folder: Path, percent: int) -> None:
    (folder / "bin" / "use").write_text(f"{percent}\n")


@pytest.fixture
def watchdog(tmp_path: Path, watched: Path) -> Iterator[Watchdog]:
    """Starts the script beside a card that is used as `set_gpu` says; its command writes a file."""
    programs = tmp_path / "bin"
    programs.mkdir()
    set_gpu(tmp_path, 0)
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\necho 0\ncat {programs}/use\n")
    # Whoever asks for Python gets what a broken installation gives.
    for name in ("python", "python3"):
        (programs / name).write_text("#!/bin/sh\nexit 127\n")
    for path in programs.iterdir():
        path.chmod(0o755)
    set_gpu(tmp_path, 0)
    running: list[subprocess.Popen[str]] = []

    def start(*options: str, then: str = f"touch {tmp_path}/over") -> subprocess.Popen[str]:
        # The loopback in place of the network card: what else this machine does must not count.
        command = [
            "bash", str(SCRIPT), "--watch", str(watched.parent.parent), "--every", "1", "--idle", "2", "--grace", "0",
            "--interface", "none", "--log", str(tmp_path / "log"), *options, "--then", then,
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            # An input that stays open and never says anything, as a terminal that nobody sits at.
            stdin=subprocess.PIPE,
            env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"},
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def test_an_idle_machine_is_ended_after_the_time_of_idleness(watchdog: Watchdog, tmp_path: Path) -> None:
    began = time.monotonic()
    assert watchdog().wait(60) == 0
    assert time.monotonic() - began >= 2
    assert (tmp_path / "over").exists()
    assert "idle for" in (tmp_path / "log").read_text()


def test_a_busy_gpu_keeps_the_machine_and_a_run_that_hangs_does_not(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    set_gpu(tmp_path, 90)
    # It is alive, and no more than that.
    with subprocess.Popen(["sleep", "600"]) as hung:
        process = watchdog()
        time.sleep(4)
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert "busy: GPU 90 %" in (tmp_path / "log").read_text()
        set_gpu(tmp_path, 4)
        assert process.wait(60) == 0
        assert hung.poll() is None
        hung.kill()
    assert (tmp_path / "over").exists()


def test_pages_that_are_finished_keep_it_and_heartbeats_do_not(
    watchdog: Watchdog, watched: Path, tmp_path: Path
) -> None:
    process = watchdog()
    for number in range(4):
        (watched / f"new{number}.png").write_bytes(b"page")
        time.sleep(1)
    assert process.poll() is None, (tmp_path / "log").read_text()
    assert "busy: pages" in (tmp_path / "log").read_text()
    wal = watched / ".comic-upscale" / "ledger.sqlite3-wal"
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        wal.touch()
        (watched / ".comic-upscale-7.part").write_bytes(b"half a page")
        time.sleep(0.5)
    assert process.wait(1) == 0


def test_what_changes_without_a_page_does_not_keep_it(
    watchdog: Watchdog, watched: Path, tmp_path: Path
) -> None:
    # Its own log lies in the folder that it watches, and is called as the user likes.
    process = watchdog("--log", str(watched / "what happens"))
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        for name in ("started.lock", "report.html", "run.log"):
            (watched / name).write_text(str(time.monotonic()))
        time.sleep(0.5)
    assert process.wait(1) == 0
    assert (tmp_path / "over").exists()
    assert "busy" not in (watched / "what happens").read_text()


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not here: apt-get install sqlite3")
def test_pages_that_only_the_ledger_tells_of_keep_it(
    watchdog: Watchdog, watched: Path, tmp_path: Path
) -> None:
    process = watchdog()
    connection = sqlite3.connect(watched / ".comic-upscale" / "ledger.sqlite3")
    for number in range(4):
        connection.execute("insert into pages values ('done', ?)", [f"2026-01-02T{number}"])
        connection.commit()
        time.sleep(1)
    connection.close()
    assert process.poll() is None, (tmp_path / "log").read_text()
    assert process.wait(60) == 0


def test_a_transfer_keeps_it(watchdog: Watchdog, tmp_path: Path) -> None:
    process = watchdog("--interface", "lo", "--net-below", "200000")
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            while not stop.is_set():
                for _ in range(20):
                    line.sendto(bytes(60_000), ("127.0.0.1", 9))
                time.sleep(0.05)

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(4)
    alive = process.poll() is None
    stop.set()
    sender.join()
    assert alive, (tmp_path / "log").read_text()
    assert "network" in (tmp_path / "log").read_text()


def test_nothing_is_decided_while_the_machine_starts_and_a_dry_run_only_says_it(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    process = watchdog("--grace", "5", "--idle", "1", "--dry-run")
    began = time.monotonic()
    assert process.wait(60) == 0
    assert time.monotonic() - began >= 4
    assert not (tmp_path / "over").exists()
    assert f"would run: touch {tmp_path}/over" in (tmp_path / "log").read_text()


def test_a_machine_that_works_for_ever_is_ended_by_its_time_to_live(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    set_gpu(tmp_path, 100)
    process = watchdog("--ttl", "3", "--grace", "600")
    assert process.wait(60) == 0
    assert "time to live of 3 s has ended" in (tmp_path / "log").read_text()


def test_without_a_gpu_pages_and_transfers_decide_and_a_command_that_fails_is_retried(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    then = f"test -e {tmp_path}/second || {{ touch {tmp_path}/second; false; }}"
    assert watchdog("--idle", "1", "--retry", "1", then=then).wait(60) == 0
    assert "GPU unknown" in (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().count("running:") == 2


def test_a_command_that_hangs_is_ended_with_all_its_children_and_tried_again(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    then = f"test -e {tmp_path}/second && exit; touch {tmp_path}/second; sleep 617 & sleep 618; wait"
    assert watchdog("--idle", "1", "--retry", "1", "--limit", "1", then=then).wait(60) == 0
    log = (tmp_path / "log").read_text()
    assert "longer than 1 s" in log
    assert log.count("running:") == 2
    assert not [
        p
        for p in psutil.process_iter(["cmdline"])
        if p.info["cmdline"] in (["sleep", "617"], ["sleep", "618"])
    ]


def test_a_command_that_asks_something_does_not_wait_for_an_answer(
    watchdog: Watchdog, tmp_path: Path
) -> None:
    then = f"read answer; echo asked >{tmp_path}/asked"
    began = time.monotonic()
    assert watchdog("--idle", "1", then=then).wait(60) == 0
    assert time.monotonic() - began < 30
    assert (tmp_path / "asked").exists()


def test_a_signal_ends_the_watch_and_not_the_machine(watchdog: Watchdog, tmp_path: Path) -> None:
    process = watchdog("--idle", "100")
    until = time.monotonic() + 30
    while "watching" not in ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""):
        assert time.monotonic() < until
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert not (tmp_path / "over").exists()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--then"],
        ["--idle", "soon", "--then", "x"],
        ["--what", "--then", "x"],
        ["--limit", "0", "--then", "x"],
    ],
)
def test_what_cannot_be_is_refused(options: list[str]) -> None:
    ended = subprocess.run(["bash", str(SCRIPT), *options], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")


UNIT = SCRIPT.parent / "idle-watchdog.service"


def _unit_here(tmp_path: Path) -> Path:
    """The unit with the script where it is, in place of where it is to be copied."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/idle_watchdog.sh", str(SCRIPT)))
    return unit


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here: apt-get install systemd"
)
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(_unit_here(tmp_path))], capture_output=True, text=True
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_command_of_the_unit_is_one_that_the_script_takes(tmp_path: Path) -> None:
    text = _unit_here(tmp_path).read_text()
    (command,) = (line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart="))
    soon = ["--dry-run", "--every", "1", "--ttl", "1"]
    ran = subprocess.run([*shlex.split(command), *soon], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    assert "shutdown -h now" in ran.stdout + ran.stderr


HOSTILE_FOLDERS = ["-delete", "-exec", "(", "!", "--", "-fprint=x", "$(touch evil)", ";touch evil;"]


@pytest.mark.parametrize("folder", HOSTILE_FOLDERS)
def test_a_watched_folder_is_never_an_option_of_a_program(tmp_path: Path, folder: str) -> None:
    here = tmp_path / "here"
    (here / folder).mkdir(parents=True)
    (here / folder / "page.png").write_bytes(b"page")
    (here / "precious").write_bytes(b"precious")
    ended = subprocess.run(
        [
            "bash", str(SCRIPT), "--watch", folder, "--every", "1", "--idle", "1", "--grace", "0",
            "--interface", "none", "--then", "touch ended",
        ],
        cwd=here, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PATH": f"{no_gpu(tmp_path)}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    left = sorted(str(path.relative_to(here)) for path in here.rglob("*"))
    assert left == sorted([folder, f"{folder}/page.png", "precious", "ended"])


def no_gpu(tmp_path: Path) -> Path:
    """A folder for PATH in which `nvidia-smi` knows no GPU."""
    folder = tmp_path / "programs"
    folder.mkdir(exist_ok=True)
    (folder / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (folder / "nvidia-smi").chmod(0o755)
    return folder


def test_it_needs_no_home(tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if name != "HOME"}
    ended = subprocess.run(
        [
            "bash", str(SCRIPT), "--every", "1", "--idle", "1", "--grace", "0", "--interface", "none",
            "--then", f"touch {shlex.quote(str(tmp_path / 'ended'))}",
        ],
        capture_output=True, text=True, timeout=60,
        env={**plain, "PATH": f"{no_gpu(tmp_path)}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("value", ["08", "0", "1.5", "-1", "", "9" * 30, "x[$(touch evil)]"])
def test_numbers_are_plain_numbers(tmp_path: Path, value: str) -> None:
    ended = subprocess.run(
        ["bash", str(SCRIPT), "--limit", value, "--ttl", "1", "--every", "1", "--then", "true", "--dry-run"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, "error: --limit" in ended.stderr) == (
        (0, False) if value == "08" else (2, True)
    )
    assert not (tmp_path / "evil").exists()
