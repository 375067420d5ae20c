"""Worker processes: the same outputs as threads; a crash costs one page; no process outlives the run."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from comic_upscale.engines.base import Batch, DeviceInfo, Upscaled
from comic_upscale.errors import PageError
from comic_upscale.execution.local import executor, worker_process, workers
from comic_upscale.execution.local.steps import Handover, PageSize, PageSteps
from comic_upscale.execution.local.worker_process import StartError, WorkerProcess
from comic_upscale.execution.local.workers import feeds_fast_device
from comic_upscale.execution.quality_gate import QualityGate
from comic_upscale.imaging.decode import decode
from comic_upscale.jobs.run import run_job
from comic_upscale.ledger.queries import read_failures
from comic_upscale.settings.job import JobSettings
from tests.conftest import REPOSITORY, MakeSettings, draw
from tests.execution.odd_steps import OddSteps
from tests.fakes import NearestEngine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="anonymous shared memory is Linux's")

SIZE = PageSize((96, 64), (240, 160), True, ())


def processes() -> list[psutil.Process]:
    """Worker processes of this one."""
    children = psutil.Process().children()
    return [child for child in children if "worker_process" in " ".join(child.cmdline())]


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def run(settings: JobSettings) -> tuple[int, int]:
    finished = run_job(settings, open_engines=lambda *_: [NearestEngine()])
    return finished.done, finished.failed


@pytest.fixture
def in_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "feeds_fast_device", lambda *_: True)
    monkeypatch.setattr(workers, "SHORT_JOB", 0)


@pytest.fixture
def worker(make_settings: MakeSettings) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(OddSteps(make_settings(), {"auto": 4}))
    yield worker
    worker.close()


def noise(seed: int, size: tuple[int, int] = (96, 64)) -> bytes:
    """A PNG file."""
    samples = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return in_a_file(samples)


def plain(color: tuple[int, int, int]) -> bytes:
    return in_a_file(np.full((64, 96, 3), color, dtype=np.uint8))


def in_a_file(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples).save(file, "PNG")
    return file.getvalue()


def test_processes_and_threads_give_the_same_files(
    make_settings: MakeSettings,
    tmp_path: Path,
    in_processes: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = tmp_path / "mixed"
    for number, size in enumerate([(96, 64), (200, 300), (70, 90), (96, 64), (300, 200)]):
        draw(source / f"{number}.png", number, size=size, mode=("RGB", "L", "RGBA")[number % 3])
    (source / "bad.png").write_bytes(noise(1)[:200])
    deep = np.random.default_rng(9).integers(0, 65536, (64, 96), dtype=np.uint16)
    Image.fromarray(deep).save(source / "deep.png")
    settings = make_settings(input=source, workers=3)
    with caplog.at_level("WARNING"):
        assert run(settings) == (6, 1)
    # No thread stepped in.
    assert "do not start" not in caplog.text
    made = outputs(settings.output)
    (failure,) = read_failures(settings.ledger_path)
    monkeypatch.undo()
    threads = make_settings(input=source, output=tmp_path / "threads")
    assert run(threads) == (6, 1)
    assert outputs(threads.output) == made
    assert read_failures(threads.ledger_path)[0].reason == failure.reason
    assert not processes()


def test_a_page_that_ends_its_process_costs_no_other_page(
    make_settings: MakeSettings, tmp_path: Path, in_processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "PageSteps", OddSteps)
    source = tmp_path / "odd"
    for number in range(6):
        draw(source / f"{number}.png", number, size=(96, 64))
    (source / "kills.png").write_bytes(plain(OddSteps.KILLS))
    (source / "fails.png").write_bytes(plain(OddSteps.FAILS))
    settings = make_settings(input=source)
    assert run(settings) == (6, 2)
    fails, kills = sorted(read_failures(settings.ledger_path), key=lambda failure: failure.source)
    assert (kills.source, kills.kind) == ("kills.png", worker_process.CRASH)
    assert "SIGKILL" in kills.reason
    assert (fails.source, fails.kind) == ("fails.png", "internal")
    assert "UnpicklableError" in fails.reason
    assert not processes()


def test_a_process_is_started_again_after_a_crash(worker: WorkerProcess) -> None:
    for _ in range(2):
        with pytest.raises(PageError, match="SIGKILL"):
            worker.call("decode", (plain(OddSteps.KILLS), SIZE, ""))
        decoded = worker.call("decode", (noise(3), SIZE, ""))
        assert decoded.pixels.color.shape == (64, 96, 3)


def test_a_page_is_not_blamed_for_a_process_that_ended_before(worker: WorkerProcess) -> None:
    worker.call("decode", (noise(3), SIZE, ""))
    (child,) = processes()
    child.kill()
    psutil.wait_procs([child], timeout=10)
    assert worker.call("decode", (noise(4), SIZE, "")).pixels.color.shape == (64, 96, 3)


def test_results_are_copies_that_the_next_call_leaves_alone(worker: WorkerProcess) -> None:
    first = worker.call("decode", (noise(3), SIZE, ""))
    kept = first.pixels.color.copy()
    # Larger than the shared memory so far, too.
    large = worker.call("decode", (noise(4, (900, 700)), PageSize((900, 700), (1800, 1400), True, ()), ""))
    again = worker.call("decode", (noise(5), SIZE, ""))
    assert np.array_equal(first.pixels.color, kept)
    assert large.pixels.color.shape == (700, 900, 3)
    assert not np.array_equal(again.pixels.color, kept)
    # They may be changed in place, as those of a thread.
    first.pixels.color[:] = 0


def test_the_callers_pixels_are_not_changed(worker: WorkerProcess) -> None:
    before = worker.call("decode", (noise(3), SIZE, "")).pixels
    raw = replace(before, color=np.full((160, 240, 3), 250, dtype=np.uint8))
    worker.call("finish", (before, Handover(raw), SIZE.target, "png", QualityGate()))
    assert (raw.color == 250).all()


def test_an_error_of_a_page_keeps_its_kind(worker: WorkerProcess) -> None:
    with pytest.raises(PageError) as caught:
        worker.call("decode", (noise(1)[:100], SIZE, ""))
    with pytest.raises(PageError) as direct:
        decode(noise(1)[:100], max_pixels=10**6)
    assert (caught.value.kind, caught.value.reason) == (direct.value.kind, direct.value.reason)


def test_a_thread_does_the_work_where_no_process_starts(
    make_settings: MakeSettings,
    in_processes: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "executable", "/does/not/exist")
    settings = make_settings()
    done, failed = run(settings)
    assert (done > 0, failed) == (True, 0)
    # Once for the run, not for every page.
    assert caplog.text.count("do not start") == 1
    with pytest.raises(StartError):
        WorkerProcess(PageSteps(settings, {"auto": 4})).call("decode", (noise(1), SIZE, ""))


def test_a_suspect_page_is_upscaled_again_and_kept(
    make_settings: MakeSettings, tmp_path: Path, in_processes: None
) -> None:
    calls: list[bool] = []
    source = tmp_path / "one"
    draw(source / "page.png", 1, size=(96, 96))

    class Black(NearestEngine):
        """Gives black pages, which the gate rejects."""

        def upscale(self, batch: Batch) -> Upscaled:
            calls.append(batch.conservative)
            return Upscaled(np.zeros_like(super().upscale(batch).pixels))

    settings = make_settings(input=source)
    finished = run_job(settings, open_engines=lambda *_: [Black()])
    assert (finished.done, finished.failed, calls) == (1, 0, [False, True])
    assert len(outputs(settings.output)) == 1


def test_an_answer_that_was_not_read_whole_is_never_the_next_ones(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.call("decode", (noise(3), SIZE, ""))
    with monkeypatch.context() as patch:
        patch.setattr(worker_process._Channel, "receive", _out_of_memory)
        with pytest.raises(MemoryError):
            worker.call("decode", (noise(4), SIZE, ""))
    decoded = worker.call("decode", (noise(5), SIZE, ""))
    expected = decode(noise(5), max_pixels=10**6)
    assert np.array_equal(decoded.pixels.color, expected.color)


def _out_of_memory(_channel: object, *, in_place: bool) -> object:
    raise MemoryError


def test_pixels_that_are_handed_over_are_released_once_they_are_sent(worker: WorkerProcess) -> None:
    before = worker.call("decode", (noise(3), SIZE, "")).pixels
    raw = Handover(replace(before, color=np.full((160, 240, 3), 250, dtype=np.uint8)))
    worker.call("finish", (before, raw, SIZE.target, "png", QualityGate()))
    assert raw.pixels is None


def test_the_memory_of_a_large_page_is_given_back(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "_KEPT_BYTES", 100_000)
    large = worker.call("decode", (noise(4, (900, 700)), PageSize((900, 700), (1800, 1400), True, ()), ""))
    assert large.pixels.color.shape == (700, 900, 3)
    channel = worker._channel
    assert channel is not None
    assert os.fstat(channel._incoming.file).st_size == 0
    for seed in (5, 6):
        small = worker.call("decode", (noise(seed), SIZE, ""))
        assert np.array_equal(small.pixels.color, decode(noise(seed), max_pixels=10**6).color)


def test_anonymous_files_are_there_for_pythons_that_were_built_without_them(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert worker.call("decode", (noise(3), SIZE, "")).pixels.color.shape == (64, 96, 3)


@contextmanager
def program(folder: Path, steps: PageSteps, then: str) -> Iterator[psutil.Process]:
    """Start another program with a worker process, and give that process; both have ended after the ``with`` block.

    Args:
        folder: for its files, and its variable ``folder``.
        steps: of the worker process.
        then: what the program does with its ``worker``.
    """
    (folder / "steps").write_bytes(pickle.dumps(steps))
    code = (
        "import pathlib, pickle, time\n"
        "from comic_upscale.execution.local.steps import PageSize\n"
        "from comic_upscale.execution.local.worker_process import WorkerProcess\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "worker = WorkerProcess(pickle.loads((folder / 'steps').read_bytes()))\n"
        "worker._start()\n"
        f"print(worker._process.pid, flush=True)\n{then}\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPOSITORY) as started:
        assert started.stdout is not None
        child = psutil.Process(int(started.stdout.readline()))
        yield child
        started.kill()
    gone, _ = psutil.wait_procs([child], timeout=30)
    assert gone or child.status() == psutil.STATUS_ZOMBIE


def test_a_process_that_hangs_ends_with_the_program(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(plain(OddSteps.HANGS))
    then = (
        "size = PageSize((96, 64), (240, 160), True, ())\n"
        "worker.call('decode', ((folder / 'page.png').read_bytes(), size, ''))"
    )
    with program(tmp_path, OddSteps(make_settings(), {"auto": 4}), then):
        time.sleep(0.5)  # it is in its step, most likely


def test_a_process_ends_when_the_program_is_killed(make_settings: MakeSettings, tmp_path: Path) -> None:
    steps = PageSteps(make_settings(), {"auto": 4})
    with program(tmp_path, steps, "time.sleep(600)") as child:
        # Systems send it to every process of a service, and it must not end the page in work.
        child.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE


def test_a_short_job_starts_no_process(make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_worker: WorkerProcess) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(executor, "feeds_fast_device", lambda *_: True)
    monkeypatch.setattr(WorkerProcess, "_start", refuse)
    assert run(make_settings())[1] == 0


@pytest.mark.parametrize(
    ("count", "device", "expected"),
    [
        (5, DeviceInfo("cuda", 0), True),
        (4, DeviceInfo("cuda", 0), False),
        (16, DeviceInfo("cpu"), False),
        (16, DeviceInfo("xpu", 0), True),
    ],
)
def test_many_workers_of_a_gpu_are_processes(count: int, device: DeviceInfo, expected: bool) -> None:
    assert feeds_fast_device(count, device) is expected
