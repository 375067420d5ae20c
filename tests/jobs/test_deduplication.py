"""Pages that are the same, byte for byte: one goes through the network, the others get its output, or their own."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.base import Batch, Upscaled
from comic_upscale.errors import OutputError, PageError
from comic_upscale.estimates.history import from_ledgers
from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.execution.local import steps
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs import intake
from comic_upscale.jobs.run import run_job, run_job_async
from comic_upscale.ledger.queries import read_runs
from comic_upscale.ledger.records import PageDone, PageFailed
from comic_upscale.ledger.status import read_status
from comic_upscale.planning.duplicates import shared_sizes
from comic_upscale.reporting.export import read_export
from comic_upscale.settings.job import JobSettings
from comic_upscale.storage import parts as files_module
from tests.archives import make_7z, make_tar, make_zip, picture, pictures, read_cbz
from tests.conftest import REPOSITORY, MakeJob, draw
from tests.fakes import NearestEngine, pause


def run(settings: JobSettings, engine: NearestEngine | None = None, **more: object) -> JobFinished:
    return run_job(settings, open_engines=lambda *_: [engine or NearestEngine()], **more)  # type: ignore[arg-type]


def through(engine: NearestEngine) -> int:
    """How many pages went through the network."""
    return sum(shape[0] for shape in engine.batches)


def same_pages(folder: Path, count: int, name: str = "same", suffix: str = "png") -> list[Path]:
    """Write ``count`` files with the same bytes."""
    first = draw(folder / f"{name}00.{suffix}", 1)
    return [first, *(Path(shutil.copy(first, folder / f"{name}{at:02}.{suffix}")) for at in range(1, count))]


def rows(settings: JobSettings, columns: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(settings.ledger_path)) as connection, connection:
        query = f"select {columns} from pages where kind = 'page' order by source"
        return connection.execute(query).fetchall()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.*")) if path.is_file()}


def test_pages_that_are_the_same_go_through_the_network_once(make_job: MakeJob, tmp_path: Path) -> None:
    same_pages(tmp_path / "in", 6)
    draw(tmp_path / "in" / "zz.png", 5)
    engine = NearestEngine(pause(0.05), limit=4)
    settings = make_job()
    events: list[Event] = []
    finished = run(settings, engine, on_event=events.append)
    assert (finished.done, finished.copied_now, through(engine)) == (7, 5, 2)
    made = files(settings.output)
    assert len({made[f"same{at:02}.png"] for at in range(6)}) == 1
    assert made["zz.png"] != made["same00.png"]
    # A file of its own each: who edits one must not find another one changed.
    assert len({(settings.output / name).stat().st_ino for name in made}) == 7
    copies = [event for event in events if isinstance(event, PageDone) and event.copied_from]
    original = next(source for source, copied in rows(settings, "source, copied_from") if copied is None)
    assert {event.copied_from for event in copies} == {original}
    assert all(f"duplicate of {original}:" in event.notes[-1] for event in copies)
    assert all(
        row[0] == "done" and row[1] == row[2] for row in rows(settings, "state, width * 2, output_width")
    )
    assert run(settings, engine).done_now == 0


def test_a_large_page_of_a_solid_archive_lets_a_possible_duplicate_before_it_pass(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Then each page that is read ahead is as large as all that may be.
    monkeypatch.setattr(intake, "READ_AHEAD_BYTES", 1)
    draw(tmp_path / "in" / "a.png", 1)
    make_7z(tmp_path / "in" / "b.cb7", pictures(3))
    shutil.copy(tmp_path / "in" / "a.png", tmp_path / "in" / "c.png")
    work = run_job_async(make_job(workers=1), open_engines=lambda *_: [NearestEngine()])
    finished = asyncio.run(asyncio.wait_for(work, 60))
    assert (finished.done, finished.copied_now) == (5, 1)


def test_the_size_of_a_file_decides_who_is_looked_at() -> None:
    assert shared_sizes([1, 2, 2, 3], [3, 4]) == {2, 3}
    assert shared_sizes([], [1, 1]) == frozenset()


def test_a_page_that_comes_later_or_under_a_new_name_gets_a_copy(make_job: MakeJob, tmp_path: Path) -> None:
    first = draw(tmp_path / "in" / "a.png", 1)
    settings = make_job()
    run(settings)
    engine = NearestEngine()
    first.rename(tmp_path / "in" / "renamed.png")
    shutil.copy(tmp_path / "in" / "renamed.png", tmp_path / "in" / "sub.png")
    finished = run(settings, engine)
    # The output moves with the page that was renamed, and the other one gets a copy of it.
    assert (finished.moved_now, finished.copied_now, through(engine)) == (1, 1, 0)
    assert set(files(settings.output)) == {"renamed.png", "sub.png"}


@pytest.mark.parametrize("change", ["edited", "deleted", "replaced by a folder"])
def test_an_output_that_is_not_what_was_recorded_is_not_copied(
    make_job: MakeJob, tmp_path: Path, change: str
) -> None:
    first = draw(tmp_path / "in" / "a.png", 1)
    settings = make_job()
    run(settings)
    expected = (settings.output / "a.png").read_bytes()
    first.rename(tmp_path / "in" / "b.png")
    (settings.output / "a.png").unlink()
    if change == "edited":
        edited = bytearray(expected)
        edited[-20] ^= 1
        (settings.output / "a.png").write_bytes(edited)
    elif change == "replaced by a folder":
        (settings.output / "a.png").mkdir()
    engine = NearestEngine()
    shutil.copy(tmp_path / "in" / "b.png", tmp_path / "in" / "c.png")
    # The first is upscaled again, and the second gets its output.
    assert (run(settings, engine).copied_now, through(engine)) == (1, 1)
    assert (settings.output / "b.png").read_bytes() == (settings.output / "c.png").read_bytes() == expected


def test_formats_are_not_mixed(make_job: MakeJob, tmp_path: Path) -> None:
    """The same bytes under two names, which --format auto writes in two formats."""
    page = draw(tmp_path / "in" / "a.png", 1)
    shutil.copy(page, tmp_path / "in" / "b.png")
    shutil.copy(page, tmp_path / "in" / "c.webp")
    shutil.copy(page, tmp_path / "in" / "d.webp")
    settings, engine = make_job(format="auto"), NearestEngine()
    assert (run(settings, engine).copied_now, through(engine)) == (2, 2)
    kinds = {name: data[:4] for name, data in files(settings.output).items()}
    assert kinds == {"a.png": b"\x89PNG", "b.png": b"\x89PNG", "c.webp": b"RIFF", "d.webp": b"RIFF"}


class _FailsFirst(NearestEngine):
    def __init__(self) -> None:
        super().__init__(pause(0.05))
        self._failed = False

    def upscale(self, batch: Batch) -> Upscaled:
        if not self._failed:
            self._failed = True
            raise PageError("not-finite", "the first one fails")
        return super().upscale(batch)


def test_a_first_page_that_fails_does_not_spoil_the_others(make_job: MakeJob, tmp_path: Path) -> None:
    same_pages(tmp_path / "in", 8)
    engine = _FailsFirst()
    finished = run(make_job(), engine)
    assert (finished.done, finished.failed, finished.copied_now, through(engine)) == (7, 1, 6, 1)


def test_broken_pages_that_are_the_same_fail_each(make_job: MakeJob, tmp_path: Path) -> None:
    for path in same_pages(tmp_path / "in", 5):
        path.write_bytes(path.read_bytes()[:900])
    finished = run(make_job())
    assert (finished.done, finished.failed) == (0, 5)
    assert finished.failures[0][1] == finished.failures[4][1] == "truncated"


def test_an_output_that_cannot_be_written_fails_alone(make_job: MakeJob, tmp_path: Path) -> None:
    same_pages(tmp_path / "in", 4)
    settings = make_job()
    (settings.output / "same00.png").mkdir(parents=True)
    finished = run(settings)
    assert (finished.done, finished.failed, finished.copied_now) == (3, 1, 2)


def test_a_stop_leaves_those_that_wait_pending(make_job: MakeJob, tmp_path: Path) -> None:
    same_pages(tmp_path / "in", 30)
    draw(tmp_path / "in" / "0.png", 9)
    stop = StopRequest()

    def stop_now(batch: Batch) -> None:
        stop.request("enough")

    settings = make_job()
    finished = run(settings, NearestEngine(stop_now), stop=stop)
    assert finished.state == "interrupted"
    assert finished.pending + finished.done == 31
    assert finished.pending > 0
    engine = NearestEngine()
    assert run(settings, engine).done == 31
    assert through(engine) <= 1


def test_identical_folders_and_many_workers_end(make_job: MakeJob, tmp_path: Path) -> None:
    for number in range(40):
        draw(tmp_path / "in" / "a" / f"{number}.png", number)
    for copy in "bcd":
        shutil.copytree(tmp_path / "in" / "a", tmp_path / "in" / copy)
    engine = NearestEngine(limit=4)
    finished = run(make_job(workers=8), engine)
    assert (finished.done, finished.copied_now, through(engine)) == (160, 120, 40)


def test_volumes_share_a_credits_page(make_job: MakeJob, tmp_path: Path) -> None:
    """The first volume is bound, and its loose pages are gone, long before the last one comes to its credits."""
    credits = picture(99)
    for number in range(3):
        pages = pictures(4, seed=number + 1) | {f"zz{number}.png": credits}
        make_zip(tmp_path / "in" / f"v{number}.cbz", pages)
    make_7z(tmp_path / "in" / "v3.cb7", pictures(4, seed=4) | {"credits/end.png": credits})
    make_tar(tmp_path / "in" / "v4.cbt", pictures(3, seed=5) | {"a.png": credits})
    (tmp_path / "in" / "zzz.png").write_bytes(credits)
    settings, engine = make_job(), NearestEngine()
    finished = run(settings, engine)
    assert (finished.volumes_done, finished.done, finished.failed) == (5, 25, 0)
    assert (finished.copied_now, through(engine)) == (5, 20)
    made = {name: read_cbz(tmp_path / "out" / f"v{name}.cbz") for name in range(5)}
    found = {made[0]["zz0.png"], made[1]["zz1.png"], made[2]["zz2.png"], made[3]["credits/end.png"]}
    assert {*found, made[4]["a.png"]} == {(tmp_path / "out" / "zzz.png").read_bytes()}
    assert not (tmp_path / "out" / ".comic-upscale" / "volumes").exists()
    assert len(read_export(settings.ledger_path).rows) == 25


def test_a_volume_of_the_next_day_gets_the_page_out_of_the_first_ones_cbz(
    make_job: MakeJob, tmp_path: Path
) -> None:
    credits = picture(99)
    make_zip(tmp_path / "in" / "v1.cbz", pictures(3, seed=1) | {"z.png": credits})
    run(make_job())
    make_zip(tmp_path / "in" / "v2.cbz", pictures(3, seed=2) | {"other.png": credits})
    engine = NearestEngine()
    assert (run(make_job(), engine).copied_now, through(engine)) == (1, 3)
    assert (
        read_cbz(tmp_path / "out" / "v2.cbz")["other.png"] == read_cbz(tmp_path / "out" / "v1.cbz")["z.png"]
    )


def judged_page(path: Path) -> Path:
    """A page large enough for the gate."""
    return draw(path, 3, size=(80, 90))


class _Upside(NearestEngine):
    def upscale(self, batch: Batch) -> Upscaled:
        return Upscaled(super().upscale(batch).pixels[:, ::-1])


def test_a_copy_has_the_scores_of_its_page(make_job: MakeJob, tmp_path: Path) -> None:
    shutil.copy(judged_page(tmp_path / "in" / "a.png"), tmp_path / "in" / "b.png")
    settings = make_job()
    finished = run(settings, _Upside())
    assert (finished.copied_now, finished.suspects) == (1, 2)
    (one, why), (other, also) = rows(settings, "scores, suspect")
    assert one == other
    assert json.loads(str(one))["psnr"] < 30
    assert why == also


def test_a_suspect_page_is_not_copied_into_a_strict_run(make_job: MakeJob, tmp_path: Path) -> None:
    page = judged_page(tmp_path / "in" / "a.png")
    run(make_job(), _Upside())
    shutil.copy(page, tmp_path / "in" / "b.png")
    finished = run(make_job(strict=True), _Upside())
    assert (finished.copied_now, finished.failed) == (0, 1)


def test_a_page_that_no_gate_has_seen_is_not_copied_past_it(make_job: MakeJob, tmp_path: Path) -> None:
    page = judged_page(tmp_path / "in" / "a.png")
    run(make_job(gate=False))
    shutil.copy(page, tmp_path / "in" / "b.png")
    engine = NearestEngine()
    assert run(make_job(), engine).copied_now == 0
    assert through(engine) == 1
    shutil.copy(page, tmp_path / "in" / "c.png")
    assert run(make_job(gate=False), engine).copied_now == 1


def test_a_page_that_fails_now_is_not_excused_by_its_duplicate(make_job: MakeJob, tmp_path: Path) -> None:
    page = draw(tmp_path / "in" / "a.png", 1)
    run(make_job())
    shutil.copy(page, tmp_path / "in" / "b.png")
    events: list[Event] = []
    run(make_job(max_pixels=100), on_event=events.append)
    assert [event.kind for event in events if isinstance(event, PageFailed)] == ["too-large"]


def test_copies_do_not_count_for_rates(make_job: MakeJob, tmp_path: Path) -> None:
    for number in range(24):
        draw(tmp_path / "in" / f"{number:02}.png", number)
    same_pages(tmp_path / "in", 60, name="z")
    settings = make_job()
    finished = run(settings, NearestEngine(pause(0.02)))
    assert finished.copied_now >= 59
    status = read_status(settings.ledger_path)
    assert status.pages_per_second is not None
    assert status.pages_per_second < 60
    (counted,) = read_runs(settings.ledger_path, least=2)
    assert counted["pages"] == 84 - finished.copied_now
    (measured,) = from_ledgers([settings.ledger_path], counted["host"], "some processor")
    assert measured.pages == counted["pages"]
    assert measured.whole_seconds <= counted["whole_seconds"]
    # The rate is taken from the first page that is done to the last, each of which pauses for so long.
    assert measured.whole_seconds >= 0.02 * (measured.pages - 1) * 0.999


def test_a_ceiling_holds_with_copies(make_job: MakeJob, tmp_path: Path) -> None:
    same_pages(tmp_path / "in", 20)
    finished = run(make_job(price=1.0, max_cost=100.0))
    assert (finished.done, finished.copied_now) == (20, 19)


def test_a_job_without_duplicates_hashes_nothing_twice_and_reads_no_ledger(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        draw(tmp_path / "in" / f"{number}.png", number, size=(20 + number, 30))
    sizes = [path.stat().st_size for path in (tmp_path / "in").iterdir()]
    assert len(set(sizes)) == 6
    asked = threading.Event()
    monkeypatch.setattr(intake, "copy_output", lambda *_: asked.set())
    hashed: list[int] = []
    sha256 = steps.sha256_of_source

    def counted(data: bytes) -> str:
        hashed.append(len(data))
        return sha256(data)

    for module in (intake, steps):
        monkeypatch.setattr(module, "sha256_of_source", counted)
    assert run(make_job()).done == 6
    assert not asked.is_set()
    assert sorted(hashed) == sorted(sizes)


def test_pages_of_one_size_that_differ_are_each_done(make_job: MakeJob, tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / "in" / f"{number}.bmp"
        path.parent.mkdir(exist_ok=True)
        samples = np.random.default_rng(number).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(samples).save(path)
    settings, engine = make_job(), NearestEngine()
    assert (run(settings, engine).copied_now, through(engine)) == (0, 5)
    assert len(set(files(settings.output).values())) == 5


KILLED_BEFORE_RECORDING_A_COPY = """
import os, signal, sys
from pathlib import Path
from comic_upscale.ledger.writer import Ledger
from comic_upscale.ledger.records import PageDone
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from tests.fakes import NearestEngine

record = Ledger.record

def killed(ledger, results):
    results = list(results)
    if any(isinstance(result, PageDone) and result.copied_from for result in results):
        os.kill(os.getpid(), signal.SIGKILL)
    record(ledger, results)

Ledger.record = killed
settings = JobSettings(input=Path(sys.argv[1]), output=Path(sys.argv[2]), model=sys.argv[3], workers=2, scale=2.0)
run_job(settings, open_engines=lambda *_: [NearestEngine()])
"""


def test_a_copy_that_was_placed_and_not_recorded_is_made_again(make_job: MakeJob, tmp_path: Path) -> None:
    same_pages(tmp_path / "in", 5)
    settings = make_job()
    command = [
        sys.executable,
        "-c",
        KILLED_BEFORE_RECORDING_A_COPY,
        str(settings.input),
        str(settings.output),
    ]
    killed = subprocess.run([*command, settings.model], cwd=REPOSITORY)
    assert killed.returncode == -signal.SIGKILL
    placed = {name: data for name, data in files(settings.output).items() if not name.endswith(".part")}
    assert len(placed) >= 2
    engine = NearestEngine()
    finished = run(settings, engine)
    assert (finished.done, finished.failed, through(engine)) == (5, 0, 0)
    assert set(files(settings.output).values()) == set(placed.values())
    assert not list(settings.output.glob(".*.part"))


def test_a_full_disk_ends_a_run_of_copies_and_the_next_one_continues(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same_pages(tmp_path / "in", 12)
    settings = make_job()
    renamed: list[Path] = []
    rename = files_module._rename

    def full(part: Path, target: Path) -> None:
        renamed.append(target)
        if len(renamed) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(part, target)

    with monkeypatch.context() as context:
        context.setattr(files_module, "_rename", full)
        with pytest.raises(OutputError, match="Free some space"):
            run(settings)
    assert not list(settings.output.glob(".*.part"))
    engine = NearestEngine()
    assert (run(settings, engine).done, through(engine)) == (12, 0)
