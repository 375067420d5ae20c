"""A run from folder to folder: what comes out, what is remembered, what is done again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.base import Batch, DeviceInfo
from comic_upscale.errors import (
    ComicUpscaleError,
    DeviceError,
    InputError,
    LedgerBusyError,
    LedgerDamagedError,
    LedgerVersionError,
    OutputError,
    PageError,
    SettingsError,
)
from comic_upscale.execution.events import Event, JobFinished, JobStarted, Progress
from comic_upscale.execution.local import devices, steps
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.lock import hold_job
from comic_upscale.ledger.queries import read_failures
from comic_upscale.ledger.records import PageDone, PageFailed
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import FailureLimit, JobSettings
from comic_upscale.storage import parts as files
from comic_upscale.storage.local import LocalOutputStore
from tests.conftest import MakeSettings, draw
from tests.fakes import NearestEngine, pause


def run(settings: JobSettings, engine: NearestEngine | None = None, **kwargs: object) -> JobFinished:
    engines = [engine or NearestEngine()]
    return run_job(settings, open_engines=lambda *_: list(engines), **kwargs)  # type: ignore[arg-type]


def run_without_engine(settings: JobSettings) -> JobFinished:
    """A run that must have nothing to do."""

    def refuse(*_: object) -> list[NearestEngine]:
        raise AssertionError("an engine was opened although nothing is left to do")

    return run_job(settings, open_engines=refuse)  # type: ignore[arg-type]


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".comic-upscale" not in path.parts
    }


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may use."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to read everything; as it is for who is not root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_every_page_comes_out_with_its_tree_size_and_mode(make_settings: MakeSettings) -> None:
    settings = make_settings(scale=2.5)
    finished = run(settings, NearestEngine(limit=4))
    assert (finished.state, finished.total, finished.done, finished.failed) == ("finished", 12, 12, 0)
    found = outputs(settings.output)
    assert len(found) == 12
    for name in found:
        with Image.open(settings.input / name) as source, Image.open(settings.output / name) as output:
            assert output.size == (round(source.width * 2.5), round(source.height * 2.5))
            assert output.mode == source.mode


def test_pixels_are_those_of_their_own_page(make_settings: MakeSettings) -> None:
    settings = make_settings(scale=2)
    run(settings, NearestEngine(limit=3))
    for name in outputs(settings.output):
        with Image.open(settings.input / name) as source, Image.open(settings.output / name) as output:
            doubled = np.asarray(source).repeat(2, axis=0).repeat(2, axis=1)
            if source.mode == "RGBA":
                assert np.array_equal(np.asarray(output)[..., 3], doubled[..., 3])
                doubled, visible = doubled[..., :3], doubled[..., 3:] > 0
                assert np.array_equal(np.asarray(output)[..., :3] * visible, doubled * visible)
            else:
                assert np.array_equal(np.asarray(output), doubled)


def test_equal_shapes_share_a_batch_and_engines_share_the_pages(make_settings: MakeSettings) -> None:
    engines = [NearestEngine(pause(0.02), limit=4), NearestEngine(pause(0.02), limit=4)]
    finished = run_job(make_settings(), open_engines=lambda *_: list(engines))
    assert finished.done == 12
    assert all(engine.batches and len(engine.threads) == 1 and engine.closed for engine in engines)
    assert max(shape[0] for engine in engines for shape in engine.batches) > 1


def test_a_second_run_has_nothing_to_do(make_settings: MakeSettings) -> None:
    settings = make_settings()
    run(settings)
    before = outputs(settings.output)
    finished = run_without_engine(settings)
    assert (finished.done, finished.done_now, finished.failed) == (12, 0, 0)
    assert outputs(settings.output) == before


def test_a_missing_output_a_new_page_and_a_changed_page_are_done(make_settings: MakeSettings) -> None:
    settings = make_settings()
    run(settings)
    (settings.output / "page1.png").unlink()
    draw(settings.input / "page2.png", 777)
    draw(settings.input / "page99.png", 99)
    os.utime(settings.input / "page3.png", (1, 1))  # touched, not changed
    finished = run(settings)
    assert (finished.done_now, finished.done, finished.total) == (3, 13, 13)
    assert run_without_engine(settings).done == 13


def test_changed_settings_do_the_pages_again_over_their_own_outputs(make_settings: MakeSettings) -> None:
    run(make_settings(scale=2))
    settings = make_settings(scale=3)
    finished = run(settings)
    assert (finished.done_now, finished.failed) == (12, 0)
    # And back again: the files are no longer those of the first settings.
    assert run(make_settings(scale=2)).done_now == 12


def test_a_file_that_the_ledger_does_not_know_is_never_overwritten(make_settings: MakeSettings) -> None:
    settings = make_settings()
    stranger = settings.output / "page0.png"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"mine")
    finished = run(settings)
    assert (finished.done, finished.failed) == (11, 1)
    assert stranger.read_bytes() == b"mine"
    assert finished.failures[0][:2] == ("page0.png", "output-exists")
    assert run(make_settings(overwrite=True)).done == 12
    assert stranger.read_bytes() != b"mine"


def test_an_output_that_the_user_edited_is_kept(make_settings: MakeSettings) -> None:
    settings = make_settings()
    run(settings)
    edited = settings.output / "page0.png"
    edited.write_bytes(edited.read_bytes() + b"by hand")
    finished = run(settings)
    assert (finished.failed, finished.failures[0][1]) == (1, "output-exists")
    assert edited.read_bytes().endswith(b"by hand")
    edited.unlink()
    assert run(settings).failed == 0


def test_two_inputs_into_one_folder_do_not_take_each_others_names(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run(make_settings())
    draw(tmp_path / "other" / "page0.png", 5)
    finished = run(make_settings(input=tmp_path / "other"))
    assert (finished.done, finished.failed) == (0, 1)


def test_folders_that_were_moved_are_recognised(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()
    run(settings)
    settings.input.rename(tmp_path / "moved")
    settings.output.rename(tmp_path / "moved-out")
    finished = run(make_settings(input=tmp_path / "moved", output=tmp_path / "moved-out"))
    assert (finished.done, finished.failed, finished.pending) == (12, 0, 0)


def test_the_output_inside_the_input_is_never_input(make_settings: MakeSettings) -> None:
    inside = make_settings().input / "big"
    assert run(make_settings(output=inside)).done == 12
    assert run_without_engine(make_settings(output=inside)).total == 12
    # Nor is the output of another job.
    assert run(make_settings(output=inside.with_name("bigger"), scale=3)).total == 12


def test_one_bad_page_is_a_value(make_settings: MakeSettings) -> None:
    settings = make_settings()
    (settings.input / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (settings.input / "empty.jpg").write_bytes(b"")
    (settings.input / "nowhere.png").symlink_to("gone.png")
    finished = run(settings)
    assert (finished.done, finished.failed, finished.pending) == (12, 3, 0)
    reasons = {failure.source: failure.kind for failure in read_failures(settings.ledger_path)}
    assert reasons["empty.jpg"] == "empty"
    assert reasons["nowhere.png"] == "vanished"
    assert set(reasons) == {"broken.png", "empty.jpg", "nowhere.png"}
    # Not tried again, unless requested or repaired.
    assert run_without_engine(settings).failed == 3
    draw(settings.input / "broken.png", 1)
    assert run(settings).done == 13
    (settings.input / "gone.png").write_bytes((settings.input / "broken.png").read_bytes())
    assert run(make_settings(retry_failed=True)).failed == 1


def test_a_page_without_permission(open_folder: Path, tiny_weights: Path) -> None:
    draw(open_folder / "pages" / "0.png", 0)
    draw(open_folder / "pages" / "1.png", 1).chmod(0)
    weights = open_folder / tiny_weights.name
    weights.write_bytes(tiny_weights.read_bytes())
    settings = JobSettings(input=open_folder / "pages", output=open_folder / "out", model=str(weights))
    with as_nobody():
        finished = run(settings)
    assert (finished.done, finished.failed) == (1, 1)
    assert finished.failures[0][:2] == ("1.png", "permission")


def test_an_output_folder_without_permission(open_folder: Path, tiny_weights: Path) -> None:
    draw(open_folder / "pages" / "0.png", 0)
    (open_folder / "locked").mkdir(mode=0o555)
    weights = open_folder / tiny_weights.name
    weights.write_bytes(tiny_weights.read_bytes())
    settings = JobSettings(
        input=open_folder / "pages", output=open_folder / "locked" / "out", model=str(weights)
    )
    with as_nobody(), pytest.raises(OutputError, match="permissions"):
        run(settings)


def test_a_page_that_vanishes_during_the_run(make_settings: MakeSettings) -> None:
    settings = make_settings(workers=1)

    def remove(batch: Batch) -> None:
        (settings.input / "page7.png").unlink(missing_ok=True)

    finished = run(settings, NearestEngine(remove))
    assert (finished.failed, finished.failures[0][:2]) == (1, ("page7.png", "vanished"))


def test_a_page_over_the_pixel_limit(make_settings: MakeSettings) -> None:
    finished = run(make_settings(max_pixels=24 * 32 - 1))
    assert finished.failed == 9
    assert finished.failures[0][1] == "too-large"


def test_only_the_guilty_page_of_a_batch_fails(make_settings: MakeSettings) -> None:
    settings = make_settings()
    Image.new("RGB", (24, 32), (255, 0, 255)).save(settings.input / "page4.png")

    def refuse(batch: Batch) -> None:
        if (
            (batch.pixels.reshape(len(batch.pixels), -1, batch.pixels.shape[-1])[:, 0] == (255, 0, 255))
            .all(-1)
            .any()
        ):
            raise PageError("not-finite", "numbers that are none")

    finished = run(
        settings, NearestEngine(lambda batch: refuse(batch) if batch.pixels.shape[-1] == 3 else None, 4)
    )
    assert (finished.done, finished.failed) == (11, 1)
    assert finished.failures[0] == ("page4.png", "not-finite", "numbers that are none")


def test_a_dead_device_ends_the_run_and_nothing_is_lost(make_settings: MakeSettings) -> None:
    settings = make_settings()
    calls = []

    def die(batch: Batch) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise DeviceError("the card fell off the bus")

    engine = NearestEngine(die)
    with pytest.raises(DeviceError, match="fell off"):
        run(settings, engine)
    assert engine.closed
    status = read_status(settings.ledger_path)
    assert (status.state, status.run_state, status.run_error) == (
        "stopped",
        "failed",
        "the card fell off the bus",
    )
    assert status.pending + status.done == 12
    assert run(settings).done == 12


def test_an_unforeseen_error_of_the_engine_is_a_dead_device(make_settings: MakeSettings) -> None:
    def stumble(batch: Batch) -> None:
        raise ZeroDivisionError

    with pytest.raises(DeviceError, match="ZeroDivisionError"):
        run(make_settings(), NearestEngine(stumble))


def test_a_full_disk_ends_the_run(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings()
    real, calls, recorded = os.fsync, [], threading.Event()

    def full(descriptor: int) -> None:
        calls.append(1)
        if len(calls) > 6:
            # The pages before it may still be on their way to the ledger.
            recorded.wait(10)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    def on_event(event: Event) -> None:
        if isinstance(event, PageDone):
            recorded.set()

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            run(settings, on_event=on_event)
    assert not list(settings.output.rglob("*.part"))
    assert 0 < read_status(settings.ledger_path).done < 12
    assert run(settings).done == 12


def test_a_disk_that_is_really_full(make_settings: MakeSettings, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        settings = make_settings(output=disk / "out", ledger=tmp_path / "ledger.sqlite3", scale=8)
        for number in range(20):
            draw(settings.input / f"large{number}.png", number, size=(60, 80))
        with pytest.raises(OutputError, match="Free some space"):
            run(settings)
        assert not list(disk.rglob("*.part"))
        whole = outputs(settings.output)
        assert whole
        for name in whole:
            with Image.open(settings.output / name) as image:
                image.load()
        # Pages that were placed as another found the disk full may not be on record yet; never the reverse.
        assert read_status(settings.ledger_path).done <= len(whole)
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert run(settings).pending == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_output_folder_that_cannot_be_made(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SettingsError, match="--output"):
        run(make_settings(output=tmp_path / "file" / "out"))


def test_inputs_that_are_none(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(make_settings(input=tmp_path / "nowhere"))
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "notes.txt").write_bytes(b"none")
    with pytest.raises(InputError, match="1 not an image"):
        run(make_settings(input=tmp_path / "books"))
    assert not (tmp_path / "out").exists()


def test_a_stop_drops_what_no_device_has_and_finishes_the_rest(make_settings: MakeSettings) -> None:
    settings = make_settings()
    stop = StopRequest()
    calls = []

    def ask(batch: Batch) -> None:
        calls.append(1)
        if len(calls) == 3:
            stop.request("enough")

    finished = run(settings, NearestEngine(ask), stop=stop)
    assert (finished.state, finished.reason, finished.failed) == ("interrupted", "enough", 0)
    assert 0 < finished.done < 12
    assert finished.done + finished.pending == 12
    assert len(outputs(settings.output)) == finished.done
    assert run(settings).done == 12


def test_too_many_failures_stop_the_run(make_settings: MakeSettings) -> None:
    settings = make_settings(max_failures=FailureLimit(count=2), workers=1)
    for number in range(40):
        (settings.input / f"a{number}.png").write_bytes(b"no image")
    finished = run(settings)
    assert finished.state == "interrupted"
    assert "--max-failures 2" in (finished.reason or "")
    assert 3 <= finished.failed < 40


def test_a_second_run_of_the_same_job_is_told_who_holds_it(make_settings: MakeSettings) -> None:
    settings = make_settings()
    inside, leave = threading.Event(), threading.Event()

    def wait(batch: Batch) -> None:
        inside.set()
        leave.wait(20)

    first = threading.Thread(target=run, args=(settings, NearestEngine(wait)))
    first.start()
    try:
        assert inside.wait(20)
        with pytest.raises(LedgerBusyError, match=f"process {os.getpid()} on"):
            run(settings)
        assert read_status(settings.ledger_path).state == "running"
    finally:
        leave.set()
        first.join()
    assert run_without_engine(settings).done == 12


def test_the_lock_covers_a_ledger_in_another_folder(make_settings: MakeSettings, tmp_path: Path) -> None:
    ledger = tmp_path / "ledgers" / "one.sqlite3"
    settings = make_settings(ledger=ledger)
    with hold_job(tmp_path / "another-output", ledger), pytest.raises(LedgerBusyError):
        run(settings)
    assert run(settings).done == 12
    assert read_status(ledger).done == 12


def test_events_come_in_order_and_add_up(make_settings: MakeSettings) -> None:
    settings = make_settings()
    (settings.input / "bad.png").write_bytes(b"bad")
    events: list[Event] = []
    run(settings, on_event=events.append)
    kinds = [type(event) for event in events]
    assert kinds.index(JobStarted) < kinds.index(Progress)
    assert kinds[-1] is JobFinished
    assert kinds.count(PageDone) == 12
    assert kinds.count(PageFailed) == 1
    started = next(event for event in events if isinstance(event, JobStarted))
    assert (started.total, started.todo, started.device) == (13, 13, "fake")


def test_a_run_over_outputs_notes_that_they_are_upscaled_once_more(make_settings: MakeSettings) -> None:
    first = make_settings()
    events: list[Event] = []
    run(first, on_event=events.append)
    again = replace(first, input=first.output, output=first.output.with_name("again"))
    one = replace(again, input=first.output / "page0.png", output=first.output.with_name("one"))
    for settings in (again, one, replace(one, output=first.output)):
        run(settings, on_event=events.append)
    notes = [event.warnings for event in events if isinstance(event, JobStarted)]
    assert [any("upscaled once more" in note for note in each) for each in notes] == [
        False,
        True,
        True,
        False,
    ]


def test_the_last_progress_of_a_stopped_run_is_what_the_status_says(make_settings: MakeSettings) -> None:
    settings = make_settings(workers=1)
    for name in ("a.png", "b.png"):
        (settings.input / name).write_bytes(b"bad")
    stop, shown = StopRequest(), []

    def listen(event: Event) -> None:
        if isinstance(event, Progress):
            shown.append(event)
        elif isinstance(event, PageDone):
            stop.request("SIGINT")

    run(settings, on_event=listen, stop=stop)
    status, last = read_status(settings.ledger_path), shown[-1]
    assert (last.done, last.failed, last.pending) == (status.done, status.failed, status.pending)
    assert status.percent == round(100 * (last.done + last.failed) / last.total, 1)


def test_what_the_ledger_keeps_of_a_page(make_settings: MakeSettings) -> None:
    import hashlib

    settings = make_settings(scale=2.5)
    run(settings)
    connection = sqlite3.connect(settings.ledger_path)
    connection.row_factory = sqlite3.Row
    row = connection.execute("select * from pages where source = 'page0.png'").fetchone()
    output = (settings.output / row["output"]).read_bytes()
    assert (row["width"], row["height"], row["output_width"], row["output_height"]) == (24, 32, 60, 80)
    assert row["source_sha256"] == hashlib.sha256((settings.input / "page0.png").read_bytes()).hexdigest()
    assert (row["output_size"], row["output_sha256"]) == (len(output), hashlib.sha256(output).hexdigest())
    assert row["attempts"] == 1
    assert all(row[f"{stage}_seconds"] >= 0 for stage in ("decode", "upscale", "encode", "place"))
    job = connection.execute("select * from jobs").fetchone()
    assert job["fingerprint"] == settings.fingerprint(job["model_sha256"])
    one_run = connection.execute("select * from runs").fetchone()
    assert (one_run["state"], one_run["pid"], one_run["device"]) == ("finished", os.getpid(), "fake")
    assert dict(connection.execute("select * from progress").fetchone())["percent"] == 100.0
    assert connection.execute("select count(*) from failures").fetchone()[0] == 0
    assert connection.execute("pragma foreign_key_check").fetchall() == []
    connection.close()


def test_a_ledger_from_a_newer_version(make_settings: MakeSettings) -> None:
    settings = make_settings()
    run(settings)
    connection = sqlite3.connect(settings.ledger_path)
    connection.execute("insert into _sqlite_migrations (migration_set, name, applied_at) values (?, ?, ?)",
                       ["comic_upscale", "m999_later", "2030"])  # fmt: skip
    connection.commit()
    connection.close()
    with pytest.raises(LedgerVersionError, match="update"):
        run(settings)
    with pytest.raises(LedgerVersionError, match="update"):
        read_status(settings.ledger_path)


@pytest.mark.parametrize("where", ["header", "middle"])
def test_a_damaged_ledger(make_settings: MakeSettings, where: str) -> None:
    settings = make_settings()
    run(settings)
    data = bytearray(settings.ledger_path.read_bytes())
    start = 0 if where == "header" else 4096
    data[start : start + 3000] = b"\xa5" * 3000
    settings.ledger_path.write_bytes(data)
    before = outputs(settings.output)
    with pytest.raises(LedgerDamagedError, match="written pages are safe"):
        run(settings)
    assert outputs(settings.output) == before


def test_somebody_elses_database_is_left_alone(make_settings: MakeSettings, tmp_path: Path) -> None:
    foreign = tmp_path / "photos.sqlite3"
    connection = sqlite3.connect(foreign)
    connection.execute("create table photos (name text)")
    connection.commit()
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(LedgerDamagedError, match="not a comic-upscale ledger"):
        run(make_settings(ledger=foreign))
    assert foreign.read_bytes() == before


def test_parts_of_a_dead_run_are_swept(make_settings: MakeSettings) -> None:
    settings = make_settings()
    run(settings)
    connection = sqlite3.connect(settings.ledger_path)
    (row_id,) = connection.execute("select id from pages where source = 'extra/0.png'").fetchone()
    connection.execute("update pages set state = 'working' where id = ?", [row_id])
    connection.commit()
    connection.close()
    part = files.part_path(settings.output / "extra/0.png", row_id)
    part.write_bytes(b"torn")
    assert run(settings).done == 12
    assert not part.exists()


@pytest.mark.parametrize("step", ["read_header", "decode_page", "encode", "check_encoded", "put"])
@pytest.mark.parametrize(
    ("error", "kind"), [(RuntimeError("a bug"), "internal"), (MemoryError(), "out-of-memory")], ids=str
)
def test_a_fault_at_any_step_is_the_failure_of_its_page(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, kind: str
) -> None:
    where = LocalOutputStore if step == "put" else steps
    real = getattr(where, step)
    calls = []

    def stumble(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(where, step, stumble)
    finished = run(make_settings())
    assert (finished.done, finished.failed, finished.pending) == (11, 1, 0)
    assert finished.failures[0][1] == kind
    assert len(outputs(make_settings().output)) == 11


def test_a_broken_ledger_during_the_run_ends_it(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comic_upscale.ledger.writer import Ledger

    def fail(self: Ledger, results: object) -> None:
        with self._translate_errors():
            raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Ledger, "record", fail)
    with pytest.raises(ComicUpscaleError, match="disk I/O error"):
        run(make_settings())


# What is whose: files that a user puts or edits between two runs


def test_a_file_put_where_a_failed_page_belongs_is_kept(make_settings: MakeSettings) -> None:
    settings = make_settings()
    (settings.input / "page0.png").write_bytes(b"broken")
    run(settings)
    (settings.output / "page0.png").write_bytes(b"my own version")
    draw(settings.input / "page0.png", 0)
    assert run(settings).failures[0][:2] == ("page0.png", "output-exists")
    assert (settings.output / "page0.png").read_bytes() == b"my own version"


def test_an_output_edited_while_its_source_was_broken_is_kept(make_settings: MakeSettings) -> None:
    settings = make_settings()
    run(settings)
    (settings.input / "page0.png").write_bytes(b"broken")
    run(settings)
    (settings.output / "page0.png").write_bytes(b"edited")
    draw(settings.input / "page0.png", 5)
    assert run(settings).failures[0][1] == "output-exists"
    assert (settings.output / "page0.png").read_bytes() == b"edited"


def test_a_file_put_after_a_graceful_stop_is_kept(make_settings: MakeSettings) -> None:
    settings = make_settings()
    stop = StopRequest()
    run(settings, NearestEngine(lambda batch: stop.request("enough")), stop=stop)
    missing = [
        path.name for path in settings.input.glob("*.png") if not (settings.output / path.name).exists()
    ]
    assert missing
    (settings.output / missing[0]).write_bytes(b"mine")
    finished = run(settings)
    assert (finished.failed, finished.failures[0][1]) == (1, "output-exists")
    assert (settings.output / missing[0]).read_bytes() == b"mine"


def test_a_file_placed_but_not_recorded_when_the_run_died_is_done_again(make_settings: MakeSettings) -> None:
    settings = make_settings()
    run(settings)
    connection = sqlite3.connect(settings.ledger_path)
    connection.execute(
        "update pages set state = 'working', claimed = 1, output_size = 1 where source = 'page0.png'"
    )
    connection.commit()
    connection.close()
    finished = run(settings)
    assert (finished.done_now, finished.done, finished.failed) == (1, 12, 0)


def test_names_stay_with_their_pages_when_settings_change(make_settings: MakeSettings) -> None:
    with Image.open(make_settings().input / "page0.png") as image:
        image.convert("RGB").save(make_settings().input / "twin.jpg")
    run(make_settings())
    draw(make_settings().input / "twin.png", 3)
    assert run(make_settings()).failed == 0
    finished = run(make_settings(scale=2))
    assert (finished.done, finished.failed) == (14, 0)
    names = set(outputs(make_settings().output))
    assert {"twin.png", "twin_2.png"} <= names
    assert len(names) == 14


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_is_never_an_output(tmp_path: Path, make_settings: MakeSettings, overwrite: bool) -> None:
    source = draw(tmp_path / "lib" / "pages" / "a.png", 1)
    draw(tmp_path / "lib" / "pages" / "pages" / "a.png", 2)
    before = source.read_bytes()
    settings = make_settings(input=tmp_path / "lib" / "pages", output=tmp_path / "lib", overwrite=overwrite)
    finished = run(settings)
    assert (finished.done, finished.failed) == (1, 1)
    assert "choose another --output" in finished.failures[0][2]
    assert source.read_bytes() == before
    one = make_settings(input=source, output=source.parent, overwrite=overwrite)
    assert run(one).failed == 1
    assert source.read_bytes() == before


def test_an_input_that_goes_away_ends_the_run_and_not_the_pages(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings(workers=1)

    def unplug(batch: Batch) -> None:
        if settings.input.exists():
            settings.input.rename(tmp_path / "unplugged")

    with pytest.raises(InputError, match="gone"):
        run(settings, NearestEngine(unplug))
    (tmp_path / "unplugged").rename(settings.input)
    assert read_status(settings.ledger_path).failed == 0
    assert run(settings).done == 12


def test_an_output_folder_that_goes_away_ends_the_run(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings()

    def unplug(batch: Batch) -> None:
        if settings.output.exists():
            settings.output.rename(tmp_path / "unplugged")

    with pytest.raises(OutputError, match="was moved, or its drive"):
        run(settings, NearestEngine(unplug))
    assert not settings.output.exists()
    (tmp_path / "unplugged").rename(settings.output)
    assert run(settings).done == 12


def test_pages_that_failed_for_lack_of_permission_are_checked_again(
    open_folder: Path, tiny_weights: Path
) -> None:
    page = draw(open_folder / "pages" / "0.png", 0)
    weights = open_folder / tiny_weights.name
    weights.write_bytes(tiny_weights.read_bytes())
    settings = JobSettings(input=open_folder / "pages", output=open_folder / "out", model=str(weights))
    page.chmod(0)
    with as_nobody():
        assert run(settings).failed == 1
        assert run_without_engine(settings).failed == 1
    page.chmod(0o644)
    with as_nobody():
        assert run(settings).done == 1


def test_an_output_folder_locked_after_the_first_run_is_told_at_once(
    open_folder: Path, tiny_weights: Path
) -> None:
    draw(open_folder / "pages" / "0.png", 0)
    weights = open_folder / tiny_weights.name
    weights.write_bytes(tiny_weights.read_bytes())
    settings = JobSettings(input=open_folder / "pages", output=open_folder / "out", model=str(weights))
    with as_nobody():
        run(settings)
    draw(open_folder / "pages" / "1.png", 1)
    settings.output.chmod(0o555)
    with as_nobody(), pytest.raises(OutputError, match="permissions"):
        run(settings)
    assert read_status(settings.ledger_path).failed == 0


def test_status_of_a_folder_that_cannot_be_written(open_folder: Path, tiny_weights: Path) -> None:
    draw(open_folder / "pages" / "0.png", 0)
    settings = JobSettings(input=open_folder / "pages", output=open_folder / "out", model=str(tiny_weights))
    run(settings)
    # A ledger is private; its owner lets others read it.
    settings.ledger_path.chmod(0o644)
    settings.ledger_path.parent.chmod(0o555)
    with as_nobody():
        assert read_status(settings.ledger_path).done == 1


def test_a_ledger_of_two_folders_keeps_them_apart(make_settings: MakeSettings, tmp_path: Path) -> None:
    first = make_settings(output=tmp_path / "one")
    second = make_settings(output=tmp_path / "two", ledger=first.ledger_path)
    for settings in (first, second, first, second):
        assert run(settings).failed == 0
    assert run_without_engine(first).done == run_without_engine(second).done == 12
    with hold_job(second.output, second.ledger_path), pytest.raises(LedgerBusyError):
        run(first)


@pytest.mark.skipif(os.name != "posix", reason="only there may a name be no Unicode")
def test_folders_whose_names_are_no_unicode(make_settings: MakeSettings, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff"))
    draw(folder / "0.png", 0)
    settings = make_settings(input=folder, output=folder.with_name(folder.name + "-x"))
    assert run(settings).done == 1
    assert run_without_engine(settings).done == 1
    # What such a folder holds is as safe as any other source.
    source = draw(folder / "lib" / "pages" / "a.png", 1)
    draw(folder / "lib" / "pages" / "pages" / "a.png", 2)
    before = source.read_bytes()
    settings = make_settings(input=folder / "lib" / "pages", output=folder / "lib", overwrite=True)
    assert run(settings).failed == 1
    assert source.read_bytes() == before


def test_a_run_that_dies_while_loading_is_on_record(make_settings: MakeSettings) -> None:
    settings = make_settings()

    def fail(*_: object) -> list[NearestEngine]:
        status = read_status(settings.ledger_path)
        assert (status.state, status.alive) == ("running", True)
        raise DeviceError("no such card")

    with pytest.raises(DeviceError):
        run_job(settings, open_engines=fail)  # type: ignore[arg-type]
    assert read_status(settings.ledger_path).run_error == "no such card"


def test_pages_that_are_taken_over_are_not_counted_as_work(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = make_settings()
    run(settings)
    settings.input.rename(tmp_path / "moved")
    finished = run(make_settings(input=tmp_path / "moved"))
    assert (finished.done_now, finished.done, finished.pages_per_second) == (0, 12, None)


def test_a_network_without_memory_fails_its_pages_in_words(make_settings: MakeSettings) -> None:
    def exhaust(batch: Batch) -> None:
        raise MemoryError

    finished = run(make_settings(), NearestEngine(exhaust))
    assert (finished.failed, finished.failures[0][1]) == (12, "out-of-memory")


def pretend_killed_after_placing(settings: JobSettings, source: str) -> None:
    """Put the ledger in the state of a run that was killed between placing a page and recording it."""
    connection = sqlite3.connect(settings.ledger_path)
    connection.execute("update pages set state = 'working', claimed = 1 where source = ?", [source])
    connection.commit()
    connection.close()
    output = settings.output / source
    Image.open(output).resize((5, 5)).save(output)


@pytest.mark.parametrize("how", ["stopped", "failed"])
def test_an_open_claim_outlives_a_run_that_does_not_do_the_page(
    make_settings: MakeSettings, how: str
) -> None:
    settings = make_settings()
    run(settings)
    pretend_killed_after_placing(settings, "page7.png")
    if how == "stopped":
        stop = StopRequest()
        stop.request("at once")
        (settings.output / "page0.png").unlink()
        run(settings, stop=stop)
    else:
        source = settings.input / "page7.png"
        good = source.read_bytes()
        source.write_bytes(b"broken")
        assert run(settings).failed == 1
        source.write_bytes(good)
    finished = run(settings)
    assert (finished.done, finished.failed) == (12, 0)


def test_an_old_claim_of_other_settings_ends_when_the_page_is_done(make_settings: MakeSettings) -> None:
    first, second = make_settings(scale=2), make_settings(scale=3)
    run(first)
    pretend_killed_after_placing(first, "page0.png")
    run(second)
    edited = second.output / "page0.png"
    edited.write_bytes(b"edited by hand")
    assert run(second).failures[0][1] == "output-exists"
    assert edited.read_bytes() == b"edited by hand"


def test_a_folder_that_cannot_be_flushed_does_not_fail_its_pages(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", refuse_folders)
    assert run(make_settings()).done == 12


def test_a_source_reached_through_a_link_is_never_an_output(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    source = draw(tmp_path / "lib" / "v" / "a.png", 1)
    before = source.read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v").symlink_to(tmp_path / "lib" / "v")
    finished = run(make_settings(input=tmp_path / "in", output=tmp_path / "lib", overwrite=True))
    assert finished.failed == 1
    assert source.read_bytes() == before
    # Replaced by a link after a first run in the same process.
    settings = make_settings(overwrite=True)
    run(settings)
    shutil.rmtree(settings.output / "extra")
    (settings.output / "extra").symlink_to(settings.input / "extra")
    kept = (settings.input / "extra" / "0.png").read_bytes()
    assert run(settings).failed == 4
    assert (settings.input / "extra" / "0.png").read_bytes() == kept


def test_an_output_behind_a_loop_of_links_fails_its_pages_alone(make_settings: MakeSettings) -> None:
    settings = make_settings()
    settings.output.mkdir()
    (settings.output / "extra").symlink_to("extra")
    finished = run(settings)
    assert (finished.done, finished.failed) == (8, 4)


def test_a_new_page_does_not_take_the_earlier_name_of_another(make_settings: MakeSettings) -> None:
    folder = make_settings().input
    with Image.open(folder / "page0.png") as image:
        image.save(folder / "a.webp")
    run(make_settings())
    run(make_settings(format="jpeg", scale=3))
    draw(folder / "a.png", 9)
    finished = run(make_settings(scale=2))
    assert (finished.done, finished.failed) == (14, 0)
    with Image.open(make_settings().output / "a_2.png") as new, Image.open(folder / "a.png") as source:
        assert new.size == (source.width * 2, source.height * 2)


def test_one_image_may_go_beside_itself_under_another_name(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    cover = draw(tmp_path / "covers" / "cover.png", 1)
    finished = run(make_settings(input=cover, output=cover.parent, format="webp"))
    assert finished.done == 1
    assert (cover.parent / "cover.webp").exists()


def test_what_stands_in_its_place_is_whole_at_every_moment(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    run(settings)
    before = outputs(settings.output)
    for number, name in enumerate(before):
        draw(settings.input / name, 500 + number)

    def fail(part: Path, target: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_rename", fail)
        with pytest.raises(OutputError):
            run(settings)
    # Everything but the rename had happened, and nobody could have seen any of it.
    assert outputs(settings.output) == before
    assert run(settings).done == 12


def test_a_device_does_not_wait_for_the_encoders(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A batch of one or two and a batch of four wait for two encoders; the device has a third one to do.
    settings, total = make_settings(workers=2, input=tmp_path / "alike"), 9
    for number in range(total):
        draw(settings.input / f"{number}.png", number)
    decoded, upscaled = threading.Semaphore(0), threading.Event()
    decode, encode = steps.decode_page, steps.encode
    seen: list[int] = []

    def noted(*args: object, **kwargs: object) -> object:
        page = decode(*args, **kwargs)  # type: ignore[arg-type]
        decoded.release()
        return page

    def after_the_last_batch(*args: object, **kwargs: object) -> bytes:
        assert upscaled.wait(10)
        return encode(*args, **kwargs)  # type: ignore[arg-type]

    def note(batch: Batch) -> None:
        if not seen:
            # The workers decode, too: from here on they may all be held up by encoding.
            assert all(decoded.acquire(timeout=10) for _ in range(total))
        seen.append(len(batch.pixels))
        if sum(seen) == total:
            upscaled.set()

    monkeypatch.setattr(steps, "decode_page", noted)
    monkeypatch.setattr(steps, "encode", after_the_last_batch)
    assert run(settings, NearestEngine(note, limit=4)).done == total


def test_the_precision_that_a_run_ends_with_is_recorded(make_settings: MakeSettings) -> None:
    engine = NearestEngine()
    engine.info = replace(engine.info, precision="fp16")

    def give_up(_batch: Batch) -> None:
        engine.info = replace(engine.info, precision="fp32")

    engine._before = give_up
    settings = make_settings()
    run(settings, engine)
    with closing(sqlite3.connect(settings.ledger_path)) as ledger, ledger:
        assert ledger.execute("select precision from runs").fetchall() == [("fp32",)]


def test_more_workers_and_gpus_may_have_more_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    card, cpu = NearestEngine(), NearestEngine()
    card.info = replace(card.info, device=DeviceInfo("cuda", 0, "card"))
    cpu.info = replace(cpu.info, device=DeviceInfo("cpu", name="1 thread"))
    memory = 64 << 30
    monkeypatch.setattr(devices, "total_memory", lambda: memory)
    few = devices.pixel_budget(4, [cpu])
    assert devices.pixel_budget(16, [cpu] * 16) == devices.pixel_budget(4, [card]) == few
    assert devices.pixel_budget(4, [card] * 3) == 3 * few
    # Sixteen workers with pages of 38 megapixels, most of them at work and a batch beside them.
    assert devices.pixel_budget(16, [card]) > 9 * 38_000_000
    # Where memory is small, it stays as it was.
    memory = 8 << 30
    assert few <= devices.pixel_budget(16, [card]) < 3 * few
    memory = 2 << 30
    assert devices.pixel_budget(16, [card]) == few
