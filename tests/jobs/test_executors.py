"""A job over each executor: the same outputs and the same ledger, whoever computes and whatever goes wrong."""

from __future__ import annotations

import asyncio
import errno
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.execution import output_check, remote_pages
from comic_upscale.execution.events import Event, JobFinished, JobStarted
from comic_upscale.execution.local import steps
from comic_upscale.execution.remote import RemoteOptions
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs import deduplication, intake, recorder
from comic_upscale.jobs.run import run_job_async
from comic_upscale.ledger.records import PageDone
from comic_upscale.ledger.writer import Ledger
from comic_upscale.settings.job import FailureLimit, JobSettings
from comic_upscale.storage import parts
from comic_upscale.storage.local import LocalOutputStore, LocalSourceStore
from tests.archives import make_7z, make_zip, picture, pictures
from tests.conftest import draw, pairs
from tests.fakes import NearestEngine, pause
from tests.machines import FolderMachine

TIMEOUT = 120.0
"""Seconds after which something hangs."""


class Side:
    """Runs jobs over an executor of one kind.

    Args:
        name: of the kind.
        folder: for what belongs to it.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.engine = NearestEngine(limit=4)
        self.machine: FolderMachine | None = None
        self.events: list[Event] = []
        self._folder = folder

    @property
    def through(self) -> int:
        """How many pages went through the network."""
        return sum(shape[0] for shape in self.engine.batches)

    def run(self, settings: JobSettings, stop: StopRequest | None = None) -> JobFinished:
        self.events.clear()
        remote: list[RemoteOptions] = []
        if self.name == "remote":
            if self.machine is None:
                self.machine = FolderMachine(self._folder / "machine", self.engine)
            remote = [RemoteOptions(self.machine, poll=0.1)]

        async def in_time() -> JobFinished:
            job = run_job_async(
                settings,
                on_event=self.events.append,
                stop=stop,
                open_engines=lambda *_: [self.engine],
                remote=remote,
            )
            return await asyncio.wait_for(job, TIMEOUT)

        try:
            return asyncio.run(in_time())
        finally:
            if self.machine is not None:
                self.machine.wait()


@pytest.fixture(params=["local", "remote"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Side:
    return Side(request.param, tmp_path)


MakeSettings = Callable[..., JobSettings]


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings from `in` to `out` at 2x; the file that stands for weights is never loaded."""
    weights = tmp_path / "any.safetensors"
    weights.write_bytes(b"weights")

    def make(**changes: Any) -> JobSettings:
        values = {"input": tmp_path / "in", "output": tmp_path / "out", "workers": 2, "scale": 2.0, **changes}
        return JobSettings(model=str(weights), **values)

    return make


def rows(settings: JobSettings, columns: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(settings.ledger_path)) as connection, connection:
        return connection.execute(f"select {columns} from pages order by source").fetchall()


def outputs(settings: JobSettings) -> dict[str, bytes]:
    return {
        str(path.relative_to(settings.output)): path.read_bytes()
        for path in sorted(settings.output.rglob("*"))
        if path.is_file() and ".comic-upscale" not in path.parts
    }


def a_library(folder: Path) -> None:
    """Pages in folders and volumes, some of them the same, one broken, one with a caption."""
    for number in range(6):
        draw(folder / f"{number}.png", number, size=(24 + number % 2, 32), mode="L" if number == 3 else "RGB")
    draw(folder / "clear.png", 20, mode="RGBA")
    (folder / "0.txt").write_text("a caption")
    (folder / "broken.png").write_bytes(picture(30)[:-200])
    shutil.copy(folder / "1.png", folder / "again.png")
    make_zip(folder / "v1.cbz", pictures(3, 1) | {"zz.png": picture(99)})
    make_7z(folder / "v2.cb7", pictures(3, 2) | {"zz.png": picture(99)})


def test_what_comes_out_does_not_depend_on_the_executor(tmp_path: Path, make_settings: MakeSettings) -> None:
    a_library(tmp_path / "in")
    columns = (
        "source, state, attempts, source_sha256, width, height, output, output_width, output_height, output_size,"
        " output_sha256, error_kind, error, notes, scores, suspect, kind, copied_from is not null"
    )
    found = []
    for name in ("local", "remote"):
        settings = make_settings(output=tmp_path / f"out-{name}")
        finished = Side(name, tmp_path / name).run(settings)
        assert (finished.done, finished.failed, finished.pending) == (16, 1, 0)
        assert (finished.volumes_done, finished.copied_now, finished.carried_now) == (2, 2, 1)
        found.append((outputs(settings), rows(settings, columns)))
    assert found[0][0] == found[1][0]
    # A page that failed is known by its words; which of two that are the same is the first is open.
    same = {"1.png", "again.png", "v1.cbz/zz.png", "v2.cb7/zz.png"}
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        columns_compared = slice(0, 13) if ours[0] in same else slice(0, None)
        assert ours[columns_compared] == theirs[columns_compared]


def test_pages_that_are_the_same_are_one_task(
    side: Side, tmp_path: Path, make_settings: MakeSettings
) -> None:
    draw(tmp_path / "in" / "00.png", 1)
    for number in range(1, 12):
        shutil.copy(tmp_path / "in" / "00.png", tmp_path / "in" / f"{number:02}.png")
    draw(tmp_path / "in" / "other.png", 2)
    settings = make_settings()
    finished = side.run(settings)
    assert (finished.done, finished.copied_now, side.through) == (13, 11, 2)
    copies = [event for event in side.events if isinstance(event, PageDone) and event.copied_from]
    (original,) = {event.copied_from for event in copies}
    assert all(f"duplicate of {original}:" in event.notes[-1] for event in copies)
    assert len({data for name, data in outputs(settings).items() if name != "other.png"}) == 1
    if side.machine is not None:
        assert len(side.machine.sent) == 2
    # A page of another day gets its output here, and is not even sent.
    shutil.copy(tmp_path / "in" / "00.png", tmp_path / "in" / "later.png")
    again = side.run(settings)
    assert (again.done_now, again.copied_now, side.through) == (1, 1, 2)


def test_pages_that_are_the_same_and_broken_fail_each(
    side: Side, tmp_path: Path, make_settings: MakeSettings
) -> None:
    broken = picture(1)[:-200]
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}.png").write_bytes(broken)
    draw(tmp_path / "in" / "good.png", 2)
    finished = side.run(make_settings())
    assert (finished.done, finished.failed, finished.pending) == (1, 6, 0)
    assert {kind for _, kind, _ in finished.failures} == {"truncated"}


def test_the_next_of_equal_pages_follows_one_whose_output_could_not_be_written(
    side: Side, tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "in" / "00.png", 1)
    for number in range(1, 5):
        shutil.copy(tmp_path / "in" / "00.png", tmp_path / "in" / f"{number:02}.png")
    rename, renamed = parts._rename, []

    def refuse_the_first(part: Path, target: Path) -> None:
        renamed.append(target)
        # What a remote machine in this process writes is its own affair.
        if renamed == [target] and target.is_relative_to(tmp_path / "out"):
            raise OSError(errno.EACCES, "Permission denied")
        if not target.is_relative_to(tmp_path / "out"):
            renamed.pop()
        rename(part, target)

    monkeypatch.setattr(parts, "_rename", refuse_the_first)
    finished = side.run(make_settings())
    assert (finished.done, finished.failed, finished.copied_now) == (4, 1, 3)
    assert finished.failures[0][1] == "output"


def test_a_stop_in_the_middle_leaves_the_rest_pending(
    side: Side, tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_pages, "FETCH_PAGES", 2)
    for number in range(60):
        draw(tmp_path / "in" / f"{number:02}.png", number)
    stop = StopRequest()
    settings = make_settings()
    side.engine = NearestEngine(pause(0.01))
    side.events = _StopAtFirstPage(stop)
    finished = side.run(settings, stop)
    assert (finished.state, finished.reason) == ("interrupted", "enough")
    assert 0 < finished.done < 60
    assert finished.done + finished.pending == 60
    assert len(outputs(settings)) == finished.done
    assert side.run(settings).done == 60


def test_a_stop_while_many_pages_are_refused_does_not_hang(
    side: Side, tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the intake has in its hands at a stop is let go of, also where the ledger cannot keep up."""
    monkeypatch.setattr(recorder, "MOST_RESULTS", 1)
    settings = make_settings(max_failures=FailureLimit(count=0))
    settings.output.mkdir()
    for number in range(48):
        draw(tmp_path / "in" / f"{number:02}.png", number)
        (settings.output / f"{number:02}.png").write_bytes(b"mine")
    record = Ledger.record

    def slowly(ledger: Ledger, results: Any) -> None:
        time.sleep(0.02)
        record(ledger, results)

    monkeypatch.setattr(Ledger, "record", slowly)
    finished = side.run(settings)
    assert finished.state == "interrupted"
    assert 0 < finished.failed < 48
    assert finished.failed + finished.pending == 48


class _StopAtFirstPage(list[Event]):
    def __init__(self, stop: StopRequest) -> None:
        super().__init__()
        self._stop = stop

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, PageDone):
            self._stop.request("enough")


def test_the_header_tells_of_devices_of_this_machine_alone(
    side: Side, tmp_path: Path, make_settings: MakeSettings
) -> None:
    draw(tmp_path / "in" / "0.png", 1)
    settings = make_settings()
    side.run(settings)
    (started,) = [event for event in side.events if isinstance(event, JobStarted)]
    with closing(sqlite3.connect(settings.ledger_path)) as connection, connection:
        (device,) = connection.execute("select device from runs").fetchone()
    if side.name == "local":
        assert (started.device, started.precision, started.native_scale, device) == (
            "fake",
            "fp32",
            4,
            "fake",
        )
    else:
        assert (started.device, started.precision, started.native_scale) == (None, None, None)
        assert device == "folder: processor"


# A fault at each stage: it neither hangs nor loses a row, and the same command ends what it interrupted.

FAULTS = {
    "claiming": (Ledger, "claim"),
    "looking at an output": (intake, "may_write"),
    "reading": (LocalSourceStore, "read"),
    "hashing": (intake, "sha256_of_source"),
    "copying": (deduplication, "read_output"),
    "header": (steps, "read_header"),
    "header, for a remote machine": (remote_pages, "read_header"),
    "decoding": (steps, "decode_page"),
    "upscaling": (NearestEngine, "upscale"),
    "encoding": (steps, "encode"),
    "checking": (steps, "check_encoded"),
    "checking what came": (output_check, "check_encoded"),
    "comparing what came": (output_check, "decode"),
    "placing": (LocalOutputStore, "put"),
    "recording": (Ledger, "record"),
    "recording a volume": (Ledger, "record_volumes"),
}


class _EndOfRunError(ComicUpscaleError):
    """What ends a run."""


RAISED = {
    "ours at once": (_EndOfRunError("ours"), 1),
    "ours later": (_EndOfRunError("ours"), 4),
    "a bug": (RuntimeError("a bug"), 3),
}
"""An error, and at which call it is raised."""


@pytest.mark.parametrize(("stage", "raised"), pairs(FAULTS, RAISED))
def test_a_fault_at_any_stage_neither_hangs_nor_loses_a_row(
    side: Side, tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch, stage: str,
    raised: str,
) -> None:  # fmt: skip
    error, call = RAISED[raised]
    a_library(tmp_path / "in")
    (tmp_path / "in" / "broken.png").unlink()
    settings = make_settings()
    place, name = FAULTS[stage]
    real, calls = getattr(place, name), []

    def stumble(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise error
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, stumble)
        try:
            finished = side.run(settings)
        except (ComicUpscaleError, ExceptionGroup, RuntimeError, MemoryError):
            finished = None
    states = [state for (state,) in rows(settings, "state")]
    if finished is not None:
        # The fault was one page's and its copies', or nobody came by it.
        assert finished.pending == 0
        failed = [digest for state, digest in rows(settings, "state, source_sha256") if state == "failed"]
        assert len(set(failed)) <= 1
        assert finished.failed <= 2
    assert len(states) in (0, 18)
    assert not list(settings.output.rglob("*.part"))
    # What it left is done by the same command, also on a remote machine that failed a page.
    again = side.run(make_settings(retry_failed=True))
    assert (again.state, again.done, again.failed, again.pending) == ("finished", 16, 0, 0)
    assert again.volumes_done == 2
    assert {state for (state,) in rows(settings, "state")} == {"done"}
