"""``pause`` and ``resume``: another process holds a run, and no page is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.execution.events import Event, JobFinished, Progress
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.pausing import pause_job, paused_since, resume_job
from comic_upscale.ledger.records import PageDone
from comic_upscale.settings.job import JobSettings
from tests.conftest import MakeSettings
from tests.fakes import NearestEngine

pytestmark = pytest.mark.usefixtures("own_state")


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


class Run:
    """A run on a thread, whose first batch pauses it as another process would."""

    def __init__(self, settings: JobSettings, stop: StopRequest) -> None:
        self.events: list[Event] = []
        self.stop = stop
        self.settings = settings
        self._paused_once = False
        self.engine = NearestEngine(self._before)
        self.thread = threading.Thread(target=self._run)
        self.finished: list[JobFinished] = []

    def _before(self, _: object) -> None:
        if not self._paused_once:
            self._paused_once = True
            assert pause_job(self.settings.output)
            # The batch is on the device until the run knows of the pause.
            wait_for(lambda: self.stop.is_paused)

    def _run(self) -> None:
        self.finished.append(
            run_job(
                self.settings,
                on_event=self.events.append,
                stop=self.stop,
                open_engines=lambda *_: [self.engine],
            )
        )

    def done(self) -> int:
        return sum(isinstance(event, PageDone) for event in self.events)


@pytest.fixture
def paused(make_settings: MakeSettings) -> Run:
    run = Run(make_settings(scale=2.0, price=3600.0), StopRequest())
    run.thread.start()
    wait_for(lambda: any(isinstance(event, Progress) and event.paused for event in run.events))
    # The page that was on the device is finished and recorded.
    wait_for(lambda: run.done() == 1)
    return run


def test_a_paused_run_finishes_the_page_on_the_device_and_then_all_others(paused: Run) -> None:
    output = paused.settings.output
    status = json.loads(invoke("status", "--job", output, "--json")[1])
    assert (status["state"], status["alive"], status["eta_seconds"]) == ("paused", True, None)
    code, out, _ = invoke("status", "--job", output)
    assert code == 0
    assert "comic-upscale resume" in out
    assert "the machine still costs $3,600.00 per hour" in out
    assert "already paused" in invoke("pause", output)[1]
    assert len(paused.engine.batches) == 1
    assert invoke("resume", output) == (0, f"resumed: {output}\n", "")
    paused.thread.join(60)
    (finished,) = paused.finished
    assert (finished.state, finished.done, finished.failed, finished.pending) == ("finished", 12, 0, 0)
    assert json.loads(invoke("status", "--job", output, "--json")[1])["paused_since"] is None


def test_a_paused_run_stops_and_loses_nothing(paused: Run, tmp_path: Path) -> None:
    paused.stop.request("SIGTERM")
    paused.thread.join(60)
    (finished,) = paused.finished
    assert (finished.state, finished.done, finished.failed, finished.pending) == ("interrupted", 1, 0, 11)
    out = invoke("status", "--job", paused.settings.output)[1]
    assert "no run is active: a watch waits" in out
    # Whoever starts a run wants it to run.
    code, out, err = invoke(
        "run", "--input", paused.settings.input, "--output", paused.settings.output, "--scale", 2, "--device", "cpu",
        "--model", paused.settings.model,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "12 of 12 pages done" in out
    assert paused_since(paused.settings.output) is None


def test_a_run_beside_a_paused_one_or_without_an_input_leaves_it_paused(paused: Run, tmp_path: Path) -> None:
    output = paused.settings.output
    words = ["--output", output, "--scale", 2, "--device", "cpu", "--model", paused.settings.model]
    assert invoke("run", "--input", paused.settings.input, *words)[0] == 6, "the paused run holds the job"
    assert paused_since(output) is not None
    assert len(paused.engine.batches) == 1
    paused.stop.request("the test is over")
    paused.thread.join(60)
    for wrong, code in (
        (["--input", tmp_path / "nowhere"], 3),
        (["--model", "auto", "--device", "cuda:77"], 5),
    ):
        assert invoke("run", "--input", paused.settings.input, *words, *wrong)[0] == code, wrong
        assert paused_since(output) is not None, wrong


def test_pausing_without_a_job(tmp_path: Path) -> None:
    code, _, err = invoke("pause", tmp_path)
    assert code == 3
    assert "has no job to pause" in err
    assert not list(tmp_path.iterdir())
    assert invoke("resume", tmp_path)[0] == 0
    assert not resume_job(tmp_path / "nowhere")
    assert invoke("pause")[0] == 3


def test_a_link_in_the_place_of_the_file_pauses_nothing(tmp_path: Path) -> None:
    (tmp_path / ".comic-upscale").mkdir()
    (tmp_path / ".comic-upscale" / "paused").symlink_to(tmp_path)
    assert paused_since(tmp_path) is None


def test_the_folder_may_be_given_as_for_other_commands(tmp_path: Path) -> None:
    settings = JobSettings(input=tmp_path / "in", output=tmp_path / "out")
    (settings.folder / ".comic-upscale").mkdir(parents=True)
    assert invoke("pause", "--job", settings.folder)[1].startswith("paused: ")
    assert invoke("resume", "--job", settings.folder)[1].startswith("resumed: ")
    code, _, err = invoke("pause", settings.folder, "--job", settings.folder)
    assert (code, "given twice" in err) == (2, True)
