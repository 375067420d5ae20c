"""`Watcher`: runs real jobs over real folders, with an engine that repeats pixels."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from comic_upscale.commands.watch import watched_jobs
from comic_upscale.errors import ComicUpscaleError, InputError, OutputError, SettingsError
from comic_upscale.execution.events import Event, JobFinished, JobStarted
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.service import JobService
from comic_upscale.ledger.pausing import pause_job, resume_job
from comic_upscale.ledger.records import PageDone, PageFailed
from comic_upscale.ledger.status import read_status
from comic_upscale.settings.job import JobSettings
from comic_upscale.settings.limits import FailureLimit
from comic_upscale.settings.selection import Selection
from comic_upscale.watching import folder
from comic_upscale.watching.watcher import Watcher, WatchResult
from tests.archives import make_zip, pictures, read_cbz
from tests.conftest import REPOSITORY, draw
from tests.fakes import NearestEngine


class Watch:
    """A watch on a thread."""

    def __init__(self, jobs: Sequence[JobSettings], state: Path) -> None:
        self.jobs = jobs
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.errors: list[ComicUpscaleError] = []
        """Raised in place of the next runs."""
        self.before_page: Callable[[], None] = lambda: None
        self.runs = 0
        self.result: WatchResult | None = None
        self.stop = StopRequest()
        self._service = JobService(state)
        self._thread = threading.Thread(target=self._watch)

    def _run(self, settings: JobSettings, only: Selection, stop: StopRequest) -> JobFinished:
        self.runs += 1
        if self.errors:
            raise self.errors.pop()
        return self._service.run(
            settings,
            on_event=self.events.append,
            stop=stop,
            only=only,
            open_engines=lambda *_: [NearestEngine(lambda _: self.before_page())],
        )

    def _watch(self) -> None:
        watcher = Watcher(
            self.jobs, self._run, self.notes.append, settle=0.1, poll=0.05, is_known=self._service.has_run
        )
        self.result = watcher.watch(self.stop)

    def __enter__(self) -> Watch:
        if self._thread.ident is None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.request("the test is over")
        self._thread.join(60)
        assert self.result is not None, "it ended with an error"

    def sources(self, kind: type[PageDone] | type[PageFailed] = PageDone) -> list[str]:
        return [event.source for event in self.events if isinstance(event, kind)]

    def wait(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, f"it never came: {self.notes} {self.sources()}"
            time.sleep(0.02)

    def rest(self) -> None:
        """Wait until it has looked at everything some times."""
        time.sleep(0.6)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    draw(tmp_path / "in" / "a.png", 1)
    make_zip(tmp_path / "in" / "v.cbz", pictures(2))
    return tmp_path / "in"


def job(root: Path, output: Path, weights: Path) -> JobSettings:
    return JobSettings(
        input=root, output=output, model=str(weights), scale=2.0, workers=2, selection=Selection()
    )


@pytest.fixture
def watch(inputs: Path, tmp_path: Path, tiny_weights: Path) -> Iterator[Watch]:
    with Watch([job(inputs, tmp_path / "out", tiny_weights)], tmp_path / "state") as watch:
        watch.wait(lambda: bool(finished(watch)))
        assert len(watch.sources()) == 3
        yield watch


def finished(watch: Watch) -> list[JobFinished]:
    return [event for event in watch.events if isinstance(event, JobFinished)]


def test_new_and_changed_files_are_upscaled_and_nothing_twice(
    watch: Watch, inputs: Path, tmp_path: Path
) -> None:
    assert list(read_cbz(tmp_path / "out" / "v.cbz")) == ["p01.png", "p02.png"]
    watch.rest()
    assert watch.runs == 1
    make_zip(inputs / "new.cbz", pictures(3))
    watch.wait(lambda: len(watch.sources()) == 6)
    draw(inputs / "a.png", 77)
    watch.wait(lambda: len(watch.sources()) == 7)
    watch.rest()
    assert watch.runs == 3
    assert watch.sources()[-1] == "a.png"
    # A run over a part counts the whole job, and a later run looks at the whole job.
    status = read_status(watch.jobs[0].ledger_path)
    assert (status.total, status.done, status.volumes_done, status.selection) == (6, 6, 2, "")
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (48, 64)


def test_a_file_that_is_still_copied_waits(watch: Watch, inputs: Path) -> None:
    content = make_zip(inputs.parent / "w.cbz", pictures(2)).read_bytes()
    with (inputs / "w.cbz").open("wb") as file:
        for place in range(0, len(content), len(content) // 20 + 1):
            file.write(content[place : place + len(content) // 20 + 1])
            file.flush()
            time.sleep(0.04)
    watch.wait(lambda: len(watch.sources()) == 5)
    assert not watch.sources(PageFailed)
    assert finished(watch)[-1].volumes_cut == 0


def test_a_bad_file_is_tried_once_until_it_changes(watch: Watch, inputs: Path) -> None:
    (inputs / "bad.png").write_bytes(b"no picture")
    watch.wait(lambda: watch.sources(PageFailed) == ["bad.png"])
    watch.rest()
    # Something else is due: the bad file is not tried along with it.
    draw(inputs / "b.png", 5)
    watch.wait(lambda: "b.png" in watch.sources())
    watch.rest()
    assert watch.sources(PageFailed) == ["bad.png"]
    draw(inputs / "bad.png", 6)
    watch.wait(lambda: "bad.png" in watch.sources())


def test_a_renamed_volume_takes_its_output_along(watch: Watch, inputs: Path, tmp_path: Path) -> None:
    (inputs / "v.cbz").rename(inputs / "w.cbz")
    watch.wait(lambda: (tmp_path / "out" / "w.cbz").exists() and not (tmp_path / "out" / "v.cbz").exists())
    watch.rest()
    assert len(watch.sources()) == 3


@pytest.mark.parametrize("mount_point", [True, False])
def test_an_unplugged_drive_is_waited_for_and_loses_nothing(
    watch: Watch, inputs: Path, *, mount_point: bool
) -> None:
    inputs.rename(inputs.with_name("unplugged"))
    if mount_point:
        inputs.mkdir()
    watch.wait(lambda: any("is its drive there?" in note for note in watch.notes))
    watch.rest()
    assert watch.runs == 1
    if mount_point:
        inputs.rmdir()
    inputs.with_name("unplugged").rename(inputs)
    watch.wait(lambda: any("is watched again" in note for note in watch.notes))
    draw(inputs / "b.png", 5)
    watch.wait(lambda: "b.png" in watch.sources())
    status = read_status(watch.jobs[0].ledger_path)
    assert (status.total, status.done, status.orphans) == (4, 4, 0)
    assert sum("is its drive there?" in note for note in watch.notes) <= 2


def test_outputs_that_are_away_are_not_made_elsewhere(watch: Watch, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").rename(tmp_path / "unplugged")
    draw(inputs / "b.png", 5)
    watch.wait(lambda: any("are gone" in note for note in watch.notes))
    watch.rest()
    assert not (tmp_path / "out").exists()
    (tmp_path / "unplugged").rename(tmp_path / "out")
    watch.wait(lambda: "b.png" in watch.sources())
    assert len(watch.sources()) == 4


def test_outputs_of_an_earlier_watch_that_are_away_are_not_made_elsewhere(
    watch: Watch, inputs: Path, tmp_path: Path
) -> None:
    with watch:
        pass
    (tmp_path / "out").rename(tmp_path / "unplugged")
    with Watch(watch.jobs, tmp_path / "state") as later:
        later.wait(lambda: any("are gone" in note for note in later.notes))
        later.rest()
        assert (later.runs, (tmp_path / "out").exists()) == (0, False)
        (tmp_path / "unplugged").rename(tmp_path / "out")
        later.wait(lambda: bool(finished(later)))
    assert not later.sources()


def test_a_paused_job_waits(watch: Watch, inputs: Path, tmp_path: Path) -> None:
    assert pause_job(tmp_path / "out")
    draw(inputs / "b.png", 5)
    watch.wait(lambda: any("is paused" in note for note in watch.notes))
    watch.rest()
    assert watch.runs == 1
    assert resume_job(tmp_path / "out")
    watch.wait(lambda: "b.png" in watch.sources())


def test_an_error_of_a_job_is_said_once_and_tried_again_later(
    watch: Watch, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "FIRST_PAUSE_SECONDS", 0.5)
    watch.errors.append(OutputError("the disk is full"))
    draw(inputs / "b.png", 5)
    watch.wait(lambda: any("the disk is full" in note for note in watch.notes))
    watch.wait(lambda: "b.png" in watch.sources())
    assert sum("the disk is full" in note for note in watch.notes) == 1
    assert watch.runs == 3


def test_a_new_file_without_a_page_is_said_and_not_tried_again(watch: Watch, inputs: Path) -> None:
    make_zip(inputs / "none.zip", {"a.txt": b"text"})
    watch.wait(lambda: any("holds no page" in note for note in watch.notes))
    watch.rest()
    assert watch.runs == 2


def test_several_folders_have_jobs_of_their_own(
    inputs: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw(tmp_path / "more" / "z.png", 9)
    given = {"output": tmp_path / "out", "model": str(tiny_weights)}
    jobs = watched_jobs([inputs, tmp_path / "more", inputs], given)
    with Watch(jobs, tmp_path / "state") as watch:
        watch.wait(lambda: len(watch.sources()) == 4)
    assert (tmp_path / "out" / "in" / "v.cbz").exists()
    assert (tmp_path / "out" / "more" / "z.png").exists()
    for wrong in (
        lambda: watched_jobs([inputs, tmp_path / "x" / "in"], given),
        lambda: watched_jobs([inputs], {}),
        lambda: watched_jobs([inputs, tmp_path / "more"], {**given, "ledger": tmp_path / "l.sqlite3"}),
    ):
        with pytest.raises(SettingsError):
            wrong()
    with pytest.raises(InputError):
        watched_jobs([inputs / "a.png"], given)


def test_too_many_failures_in_one_folder_do_not_end_the_watch_of_another(
    inputs: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    for number in range(3):
        (inputs / f"0-{number}.png").write_bytes(b"no picture")
    draw(tmp_path / "more" / "z.png", 9)
    bad = replace(job(inputs, tmp_path / "out", tiny_weights), max_failures=FailureLimit(1))
    good = job(tmp_path / "more", tmp_path / "out2", tiny_weights)
    with Watch([bad, good], tmp_path / "state") as watch:
        watch.wait(lambda: "z.png" in watch.sources())
        watch.rest()
        draw(tmp_path / "more" / "y.png", 10)
        watch.wait(lambda: "y.png" in watch.sources())
        assert not watch.stop.requested
    stopped = [event for event in finished(watch) if event.state == "interrupted"]
    assert [event.stopped_by for event in stopped] == ["max-failures"], "it waits for an hour"
    assert [note for note in watch.notes if "was stopped: more pages failed" in note]


def test_a_stop_of_the_watch_stops_the_run(inputs: Path, tmp_path: Path, tiny_weights: Path) -> None:
    watch = Watch([job(inputs, tmp_path / "out", tiny_weights)], tmp_path / "state")
    watch.before_page = lambda: watch.stop.request("SIGTERM")
    with watch:
        watch.wait(lambda: bool(finished(watch)))
    (end,) = finished(watch)
    assert (end.state, end.reason) == ("interrupted", "SIGTERM")
    assert end.done < end.total


def test_once_ends_when_nothing_changes_any_more(inputs: Path, tmp_path: Path, tiny_weights: Path) -> None:
    (inputs / "bad.png").write_bytes(b"no picture")
    watch = Watch([job(inputs, tmp_path / "out", tiny_weights)], tmp_path / "state")
    watcher = Watcher(watch.jobs, watch._run, watch.notes.append, settle=0.1, poll=60)
    assert watcher.watch(watch.stop, once=True) == WatchResult(1, [])
    assert len(watch.sources()) == 3
    away = Watcher(
        [job(tmp_path / "away", tmp_path / "out2", tiny_weights)],
        watch._run,
        watch.notes.append,
        settle=0,
        poll=1,
    )
    assert away.watch(watch.stop, once=True).waiting
    (started,) = [event for event in watch.events if isinstance(event, JobStarted)]
    assert started.selection == ""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_the_command_ends_at_sigterm_and_imports_no_torch_while_nothing_is_to_do(
    inputs: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    shutil.rmtree(inputs)
    draw(inputs / "a.png", 1)
    environment = {
        **os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    report = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    program = f"{report}from comic_upscale.start import main; main()"
    words = [sys.executable, "-c", program, "watch", str(inputs), "--output", str(tmp_path / "out")]
    words += [
        "--model",
        str(tiny_weights),
        "--device",
        "cpu",
        "--settle",
        "0",
        "--poll",
        "0.1",
        "--close-after",
        "0",
    ]
    done = subprocess.run(
        [*words, "--once"], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 page done" in done.stdout
    process = subprocess.Popen(
        words, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "nothing left to do" in line:
                break
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    assert "the watch has ended (SIGTERM)" in out
    assert out.endswith("False\n")
