"""The status of a job, from its ledger alone."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PureWindowsPath

import pytest

from comic_upscale.console.text import local_time, status_lines
from comic_upscale.errors import InputError, LedgerDamagedError, NoJobYetError
from comic_upscale.ledger.queries import copy_ledger_file, read_failures
from comic_upscale.ledger.reading import find_ledger, sqlite_uri
from comic_upscale.ledger.recent import newest_ledger, remember_ledger
from comic_upscale.ledger.records import PageDone, PageFailed, now
from comic_upscale.ledger.status import describe_holder, read_status
from comic_upscale.ledger.writer import Ledger
from comic_upscale.library.page import Page


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    yield ledger
    ledger.close()


def add_job(ledger: Ledger, count: int, tmp_path: Path) -> tuple[int, list[int]]:
    job = ledger.open_job(
        input=tmp_path / "in",
        output=tmp_path / "out",
        fingerprint="f",
        settings="{}",
        model="m",
        model_sha256="h",
    )
    pages = [Page(f"{n}.png", tmp_path / f"{n}.png", f"{n}.png", 1, 1) for n in range(count)]
    return job, ledger.add_pages(job, pages)


def done(row_id: int) -> PageDone:
    return PageDone(
        row_id=row_id, source="", output="", source_sha256="s", width=1, height=1, output_width=2,
        output_height=2, output_size=3, output_sha256="o", seconds={},
    )  # fmt: skip


def start(ledger: Ledger, job: int) -> int:
    return ledger.start_run(job, device="cpu", precision="fp32", versions={})


def change(ledger: Ledger, statement: str, *values: object) -> None:
    connection = sqlite3.connect(ledger.path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


def test_a_running_job(ledger: Ledger, tmp_path: Path) -> None:
    job, rows = add_job(ledger, 10, tmp_path)
    run = start(ledger, job)
    ledger.claim(run, tmp_path / "out", [(row, "x") for row in rows[:6]])
    for row in rows[:4]:
        ledger.record([done(row)])
        time.sleep(0.02)
    ledger.record([PageFailed(row_id=rows[4], source="4.png", kind="truncated", reason="cut off")])
    status = read_status(ledger.path)
    assert (status.state, status.alive, status.pid) == ("running", True, os.getpid())
    assert (status.total, status.done, status.failed, status.skipped, status.pending) == (10, 4, 1, 0, 5)
    assert status.pages_per_second is not None
    assert 1 < status.pages_per_second < 60
    assert status.eta_seconds == pytest.approx(5 / status.pages_per_second, abs=0.06)
    assert [(f.source, f.kind, f.reason, f.attempts) for f in read_failures(ledger.path)] == [
        ("4.png", "truncated", "cut off", 1)
    ]


def test_a_run_whose_process_is_gone_is_not_alive(ledger: Ledger, tmp_path: Path) -> None:
    job, _ = add_job(ledger, 2, tmp_path)
    run = start(ledger, job)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    change(ledger, "update runs set pid = ? where id = ?", gone.pid, run)
    status = read_status(ledger.path)
    assert (status.state, status.alive, status.run_state) == ("stopped", False, "died")
    assert status.last_seen is not None
    assert status.eta_seconds is None


def test_a_later_process_with_the_same_number_is_not_the_run(ledger: Ledger, tmp_path: Path) -> None:
    job, _ = add_job(ledger, 1, tmp_path)
    start(ledger, job)
    # The number of a run is taken long after its last heartbeat, as a rule.
    last_seen = "2020-01-01T00:00:00.000Z"
    change(ledger, "update runs set process_started = process_started - 1000, heartbeat_at = ?", last_seen)
    assert not read_status(ledger.path).alive


@pytest.mark.parametrize("seconds", [-3600.0, -2.0, 2.0, 3600.0])
def test_a_run_is_alive_after_the_clock_was_set(ledger: Ledger, tmp_path: Path, seconds: float) -> None:
    job, _ = add_job(ledger, 1, tmp_path)
    start(ledger, job)
    # On Linux, the start time of a process is the time of the boot plus ticks, and that time moves with the clock.
    change(ledger, "update runs set process_started = process_started + ?, heartbeat_at = ?", seconds, now())
    status = read_status(ledger.path)
    assert (status.alive, status.state) == (True, "running")
    assert describe_holder(ledger.path).startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("last_seen", "alive"),
    [
        ("now", True),
        ("2020-01-01T00:00:00.000Z", False),
        # A clock that was wrong when the run died must not keep it alive for years.
        ("2099-01-01T00:00:00.000Z", False),
    ],
)
def test_a_run_on_another_host_is_judged_by_its_heartbeat(
    ledger: Ledger, tmp_path: Path, last_seen: str, alive: bool
) -> None:
    job, _ = add_job(ledger, 1, tmp_path)
    start(ledger, job)
    time_seen = now() if last_seen == "now" else last_seen
    change(ledger, "update runs set host = ?, heartbeat_at = ?", socket.gethostname() + "-other", time_seen)
    assert read_status(ledger.path).alive is alive


def test_a_copy_of_a_ledger_that_is_written_is_one_whole_file(ledger: Ledger, tmp_path: Path) -> None:
    job, _ = add_job(ledger, 3, tmp_path)
    start(ledger, job)
    copy = tmp_path / "copy" / "ledger.sqlite3"
    copy.parent.mkdir()
    copy.write_bytes(b"an earlier one that was cut short")
    copy_ledger_file(ledger.path, copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert read_status(copy).total == 3


def test_a_finished_job(ledger: Ledger, tmp_path: Path) -> None:
    job, rows = add_job(ledger, 2, tmp_path)
    run = start(ledger, job)
    ledger.claim(run, tmp_path / "out", [(row, "x") for row in rows])
    ledger.record([done(row) for row in rows])
    ledger.end_run(run, "finished")
    status = read_status(ledger.path)
    assert (status.state, status.run_state, status.percent, status.eta_seconds) == (
        "finished",
        "finished",
        100.0,
        0,
    )


def test_the_newest_job_of_a_ledger_is_the_one_started_last(ledger: Ledger, tmp_path: Path) -> None:
    first, _ = add_job(ledger, 1, tmp_path)
    ledger.open_job(
        input=tmp_path / "b",
        output=tmp_path / "out",
        fingerprint="g",
        settings="{}",
        model="m",
        model_sha256="h",
    )
    time.sleep(0.005)
    start(ledger, first)
    assert read_status(ledger.path).job_id == first


def test_the_newest_job_is_found_although_the_clock_was_set_back(ledger: Ledger, tmp_path: Path) -> None:
    first, _ = add_job(ledger, 1, tmp_path)
    start(ledger, first)
    change(ledger, "update runs set started_at = '2099-01-01T00:00:00.000Z'")
    second = ledger.open_job(
        input=tmp_path / "b", output=tmp_path / "out", fingerprint="g", settings="{}", model="m", model_sha256="h",
    )  # fmt: skip
    start(ledger, second)
    assert read_status(ledger.path).job_id == second


def test_a_clock_that_was_set_back_gives_no_money_back(ledger: Ledger, tmp_path: Path) -> None:
    job, _ = add_job(ledger, 1, tmp_path)
    for _ in range(2):
        ledger.end_run(ledger.start_run(job, versions={}, price=1.0), "finished")
    change(
        ledger,
        "update runs set started_at = '2020-01-01T00:00:00.000Z', ended_at = '2020-01-01T01:00:00.000Z'",
    )
    change(ledger, "update runs set ended_at = '2019-12-31T00:00:00.000Z' where id = 2")
    assert ledger.spent(job) == (1.0, pytest.approx(1.0))
    assert read_status(ledger.path).spent == pytest.approx(1.0)


def test_a_run_that_ended_in_the_future_has_no_negative_age(ledger: Ledger, tmp_path: Path) -> None:
    job, _ = add_job(ledger, 1, tmp_path)
    ledger.end_run(start(ledger, job), "finished")
    change(ledger, "update runs set heartbeat_at = '2099-01-01T00:00:00.000Z', ended_at = heartbeat_at")
    text = "\n".join(status_lines(read_status(ledger.path)))
    assert re.search(r"the run ended at 20(98|99)-\d\d-\d\d \d\d:\d\d by the clock of", text)
    assert " s ago" not in text


def test_a_failed_run_says_when_before_a_reason_with_advice(ledger: Ledger, tmp_path: Path) -> None:
    job, _ = add_job(ledger, 1, tmp_path)
    ledger.end_run(start(ledger, job), "failed", "the disk is full. Free some space")
    lines = status_lines(read_status(ledger.path))
    assert any(
        re.search(r"the run failed \S+( s)? ago: the disk is full. Free some space$", line) for line in lines
    )


def test_times_are_those_of_this_machine_to_the_minute() -> None:
    assert re.fullmatch(r"2026-11-(28|29|30) \d\d:\d\d", local_time("2026-11-29T13:31:47.236Z"))
    assert local_time("no time") == "no time"


def test_reading_leaves_no_trace_and_does_not_wait_for_a_writer(ledger: Ledger, tmp_path: Path) -> None:
    add_job(ledger, 1, tmp_path)
    writer = sqlite3.connect(ledger.path)
    writer.execute("begin immediate")
    began = time.monotonic()
    assert read_status(ledger.path).total == 1
    assert time.monotonic() - began < 2
    writer.rollback()
    writer.close()


def test_what_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--ledger"):
        find_ledger(tmp_path)
    with pytest.raises(InputError):
        read_status(tmp_path / "none.sqlite3")
    (tmp_path / "text").write_text("this is a text file and no database" * 200)
    with pytest.raises(LedgerDamagedError):
        read_status(tmp_path / "text")
    connection = sqlite3.connect(tmp_path / "foreign.sqlite3")
    connection.execute("create table t (x)")
    connection.commit()
    connection.close()
    with pytest.raises(InputError, match="not a comic-upscale ledger"):
        read_status(tmp_path / "foreign.sqlite3")


def test_the_job_that_was_started_last_is_remembered(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert newest_ledger(state) is None
    ledgers = [tmp_path / name for name in ("a.sqlite3", "b.sqlite3")]
    for number, path in enumerate(ledgers):
        path.touch()
        remember_ledger(state, path)
        os.utime(next(iter(sorted(state.glob("*.job"), key=lambda p: p.stat().st_mtime_ns, reverse=True))),
                 (number + 1, number + 1))  # fmt: skip
    assert newest_ledger(state) == ledgers[1]
    ledgers[1].unlink()
    assert newest_ledger(state) == ledgers[0]


def test_a_ledger_that_is_being_created_holds_no_job_yet(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table _sqlite_migrations (migration_set text, name text, applied_at text)")
        connection.commit()
    with pytest.raises(NoJobYetError, match="just started"):
        read_status(path)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        (r"\\nas\comics\50 %.sqlite3", "file:////nas/comics/50%20%25.sqlite3?mode=ro"),
        (r"C:\comics\what#1.sqlite3", "file:///C:/comics/what%231.sqlite3?mode=ro"),
    ],
)
def test_sqlite_opens_a_ledger_of_a_windows_share(path: str, uri: str) -> None:
    assert sqlite_uri(PureWindowsPath(path)) == uri
    # SQLite understands the address, and only finds no file.
    with (
        pytest.raises(sqlite3.OperationalError, match="unable to open"),
        closing(sqlite3.connect(uri, uri=True)),
    ):
        pass


def test_sqlite_opens_files_with_any_name(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"50% #1?&a=b;\xff.sqlite3")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table pages (id)")
    with closing(sqlite3.connect(sqlite_uri(path), uri=True)) as connection:
        assert connection.execute("select count(*) from pages").fetchone() == (0,)
