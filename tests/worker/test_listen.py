"""A worker behind a socket: for its own user alone, for runs of its own version, and a run survives its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import json
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.engines.base import Batch, Upscaled
from comic_upscale.errors import DeviceError, SettingsError
from comic_upscale.execution.base import Activity, PageTask
from comic_upscale.execution.events import Event, JobStarted
from comic_upscale.execution.local.devices import Devices
from comic_upscale.execution.stop import StopRequest
from comic_upscale.execution.worker_client import WorkerExecutor, _Round
from comic_upscale.execution.worker_protocol import (
    MOST_BYTES,
    Channel,
    Frame,
    check_socket_path,
    outcome_fields,
)
from comic_upscale.jobs.run import run_job
from comic_upscale.worker import listen
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.listen import SocketWorker
from tests.archives import picture
from tests.conftest import REPOSITORY, MakeJob, draw
from tests.fakes import NearestEngine
from tests.jobs.test_run import as_nobody
from tests.server.running import PATIENCE, clean_environment, command, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A private folder with a short path, as a socket needs."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def cache_of(engine: NearestEngine) -> EngineCache:
    return EngineCache(lambda _job, _weights: [engine])


@contextlib.asynccontextmanager
async def listening(path: Path, engine: NearestEngine | None = None) -> AsyncIterator[SocketWorker]:
    worker = SocketWorker(path, cache_of(engine or NearestEngine()), StopRequest())
    async with worker.listening():
        yield worker


class Background:
    """A worker on a thread of its own."""

    def __init__(self, path: Path, engine: NearestEngine) -> None:
        self.engines, self.stop, self.ready = cache_of(engine), StopRequest(), threading.Event()
        worker = SocketWorker(path, self.engines, self.stop)
        self.thread = threading.Thread(
            target=lambda: asyncio.run(worker.serve(None, self.ready.set)), daemon=True
        )
        self.thread.start()
        assert self.ready.wait(PATIENCE)

    def close(self) -> None:
        self.stop.request("the test is over")
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.engines.close()


def test_a_folder_that_others_can_enter_is_refused(folder: Path) -> None:
    async def serve() -> None:
        async with listening(folder / "open" / "w"):
            raise AssertionError("it listens")

    (folder / "open").mkdir()
    (folder / "open").chmod(0o755)
    with pytest.raises(SettingsError, match="chmod 700"):
        asyncio.run(serve())


def test_a_folder_is_made_private_and_the_socket_goes_at_the_end(folder: Path) -> None:
    async def serve() -> None:
        async with listening(folder / "new" / "w") as worker:
            assert (folder / "new").stat().st_mode & 0o777 == 0o700
            assert worker.path.stat().st_mode & 0o777 == 0o600
            with pytest.raises(SettingsError, match="another worker listens"):
                async with listening(worker.path):
                    raise AssertionError("two workers listen")

    asyncio.run(serve())
    assert list((folder / "new").iterdir()) == []


def test_the_socket_of_a_dead_worker_is_replaced_and_another_file_is_not(folder: Path) -> None:
    async def serve() -> None:
        async with listening(folder / "w"):
            pass

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "w"))
    asyncio.run(serve())
    (folder / "w").write_text("mine")
    with pytest.raises(SettingsError, match="is no socket"):
        asyncio.run(serve())
    assert (folder / "w").read_text() == "mine"
    with pytest.raises(SettingsError, match="at most 100 bytes"):
        check_socket_path(folder / ("x" * 100))


@pytest.mark.skipif(
    not hasattr(socket, "SO_PEERCRED") or os.geteuid() != 0, reason="only root can be two users"
)
def test_another_user_is_refused_though_the_socket_is_open_to_all(folder: Path, make_job: MakeJob) -> None:
    async def serve() -> None:
        async with listening(folder / "w") as worker:
            os.chmod(folder, 0o755)  # noqa: PTH101
            os.chmod(worker.path, 0o777)  # noqa: PTH101
            with as_nobody():
                reader, writer = await asyncio.open_unix_connection(worker.path)
            channel = Channel(reader, writer)
            with contextlib.suppress(OSError):
                await channel.send("accelerator", device="cpu")
            with pytest.raises((EOFError, OSError)):
                await asyncio.wait_for(channel.receive(), PATIENCE)
            await channel.close()

    asyncio.run(serve())


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n", struct.pack("!IQ", 2, MOST_BYTES + 1), struct.pack("!IQ", 1 << 31, 0),
        struct.pack("!IQ", 2, 0) + b"[]", struct.pack("!IQ", 2, 0) + b"{}",
        struct.pack("!IQ", 4, 0) + b"\xff\xff\xff\xff",
        *(
            struct.pack("!IQ", len(text), 0) + text.encode()
            for text in (
                json.dumps({"kind": "open"}), json.dumps({"kind": "rubbish"}), json.dumps({"kind": ["open"]}),
                json.dumps({"kind": "task", "round": 7}), json.dumps({"kind": "process", "round": "x"}),
                "[" * 100_000,
            )
        ),
        b"",
    ],
)  # fmt: skip
def test_what_is_no_message_ends_that_connection_alone(sent: bytes, folder: Path) -> None:
    async def serve() -> None:
        async with listening(folder / "w") as worker:
            reader, writer = await asyncio.open_unix_connection(worker.path)
            writer.write(sent)
            writer.write_eof()
            # Whatever it answers, it hangs up.
            await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            reader, writer = await asyncio.open_unix_connection(worker.path)
            channel = Channel(reader, writer)
            await channel.send("open", version="0", settings={}, model="any")
            answer = await asyncio.wait_for(channel.receive(), PATIENCE)
            assert answer.kind == "failed" and "another version" in answer.fields["message"]
            await channel.close()

    asyncio.run(serve())


def test_without_a_worker_a_run_uses_its_own_engines_and_says_so(
    folder: Path, make_job: MakeJob, tmp_path: Path
) -> None:
    draw(tmp_path / "in" / "1.png", 1, size=(40, 50))
    events: list[Event] = []
    job = make_job(input=tmp_path / "in")
    engine = NearestEngine()
    finished = run_job(job, on_event=events.append, open_engines=lambda *_: [engine], worker=folder / "none")
    assert finished.done == 1 and len(engine.batches) == 1
    (started,) = (event for event in events if isinstance(event, JobStarted))
    assert [warning for warning in started.warnings if "No worker listens" in warning]


class DiesAt(NearestEngine):
    """An engine that calls a function before some batch."""

    def __init__(self, number: int, function: Any) -> None:
        super().__init__(limit=1)
        self.number, self.function = number, function

    def upscale(self, batch: Batch) -> Upscaled:
        if len(self.batches) == self.number:
            self.function()
        return super().upscale(batch)


def test_a_run_whose_worker_ends_says_so_and_goes_on_with_the_next_command(
    folder: Path, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = 40
    # So small that not all pages are in flight by the time the worker ends, however long the engine waits.
    monkeypatch.setattr(Devices, "pixel_budget", lambda *_: 10 * 100 * 125)
    for number in range(total):
        draw(tmp_path / "in" / f"{number:02}.png", number, size=(40, 50))
    job = make_job(input=tmp_path / "in", workers=1)
    held: list[Background] = []

    def recorded() -> int:
        with contextlib.closing(sqlite3.connect(job.output / ".comic-upscale" / "ledger.sqlite3")) as ledger:
            ((count,),) = ledger.execute("select count(*) from pages where state = 'done'").fetchall()
        return int(count)

    def end() -> None:
        # Those before are on their way, however busy the machine is.
        wait_for(lambda: recorded() >= 4)
        held[0].stop.request("SIGTERM")

    engine = DiesAt(4, end)
    held.append(Background(folder / "w", engine))
    try:
        with pytest.raises(DeviceError, match="run the same command again"):
            run_job(job, worker=folder / "w", open_engines=lambda *_: [])
    finally:
        held[0].close()
    done = len(engine.batches)
    assert 4 < done < total
    kept = recorded()
    rest = NearestEngine(limit=1)
    second = Background(folder / "w", rest)
    try:
        finished = run_job(job, worker=folder / "w", open_engines=lambda *_: [])
    finally:
        second.close()
    # Outcomes that were on their way when the run ended are lost; pages that it recorded are not done again.
    assert finished.done == total and total - done <= len(rest.batches) == finished.done_now <= total - 4
    assert finished.done_now == total - kept


def as_other_bytes(data: bytes) -> Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]:
    """Another output, with its own right hash."""
    return lambda fields, _: ({**fields, "sha256": hashlib.sha256(data).hexdigest()}, data)


def as_facts(**changed: object) -> Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]:
    return lambda fields, data: ({**fields, "facts": {**fields["facts"], **changed}}, data)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (as_other_bytes(b""), "something else in place of PNG"),
        (as_other_bytes(b"<html>a proxy</html>"), "in place of PNG"),
        (as_other_bytes(picture(1, (7, 9))), "7x9 pixels in place of 80x100"),
        (as_other_bytes(picture(1, (80, 100), "JPEG")), "JPEG in place of PNG"),
        (lambda fields, data: (fields, data[:-1]), "arrived damaged"),
        (as_facts(row_id=9999), "a page that it does not have"),
        (as_facts(row_id=None), "a page that it does not have"),
        (as_facts(row_id={}), "a page that it does not have"),
        (as_facts(unknown=1), "cannot be read"),
        (lambda fields, data: ({**fields, "state": "perhaps"}, data), "cannot be read"),
    ],
)
def test_an_output_that_is_not_the_page_does_not_count(
    folder: Path, make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]], words: str,
) -> None:  # fmt: skip
    """The worker is broken: the run ends, records none of it, and goes on with another worker."""
    for number in range(3):
        draw(tmp_path / "in" / f"{number}.png", number, size=(40, 50))
    job = make_job(input=tmp_path / "in")
    with monkeypatch.context() as broken:
        broken.setattr(listen, "outcome_fields", lambda outcome: spoil(*outcome_fields(outcome)))
        worker = Background(folder / "w", NearestEngine(limit=1))
        try:
            with pytest.raises(DeviceError, match=f"cannot go on: .*{words}.*Run the same command again"):
                run_job(job, worker=folder / "w", open_engines=lambda *_: [])
        finally:
            worker.close()
    assert list(job.output.glob("*.png")) == []
    worker = Background(folder / "w", NearestEngine())
    try:
        assert run_job(job, worker=folder / "w", open_engines=lambda *_: []).done_now == 3
    finally:
        worker.close()


@contextlib.contextmanager
def running_worker(home: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A real worker with the bundled model, and its socket."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "w"
        worker = subprocess.Popen(
            command("worker", "--socket", path, "--device", "cpu"), env=clean_environment(home),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=made,
        )  # fmt: skip
        assert worker.stdout is not None and worker.stdout.readline().split() == ["Worker:", str(path)]
        yield path, worker
        worker.kill()
        worker.communicate()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A real worker with the bundled model."""
    with running_worker(tmp_path_factory.mktemp("worker")) as running:
        yield running


def test_a_run_whose_worker_is_killed_says_so_and_the_next_one_continues(tmp_path: Path) -> None:
    for number in range(8):
        draw(tmp_path / "in" / f"{number}.png", number, size=(160, 200))
    output = tmp_path / "out"
    with running_worker(tmp_path) as (path, worker):
        words = command(
            "run", "-i", tmp_path / "in", "-o", output, "--scale", 2, "--device", "cpu", "--worker", path
        )
        run = subprocess.Popen(
            words, env=clean_environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=REPOSITORY,
        )  # fmt: skip
        # At the latest, the run itself ends before all pages are there, and what it said shows why.
        wait_for(lambda: [*output.glob("*.png")] or run.poll() is not None)
        worker.kill()
        said, _ = run.communicate(timeout=PATIENCE)
        assert run.returncode == DeviceError.exit_code, said
        assert "it has ended. Run the same command again" in " ".join(said.split()), said
        before = {page: page.stat().st_mtime_ns for page in output.glob("*.png")}
        assert 1 <= len(before) < 8
        # Its socket is still there, and nobody listens.
        ended = subprocess.run(
            words,
            env=clean_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=REPOSITORY,
        )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    after = {page: page.stat().st_mtime_ns for page in output.glob("*.png")}
    assert len(after) == 8 and before.items() <= after.items()


SCRIPT = """
import sys
from pathlib import Path
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings

def no_engines(*_):
    raise AssertionError("the run opened engines of its own")

job = JobSettings(input=Path(sys.argv[1]), output=Path(sys.argv[2]), scale=2.0, workers=1)
finished = run_job(job, worker=Path(sys.argv[3]), open_engines=no_engines)
assert finished.done == 1, finished
assert "torch" not in sys.modules
# What processes pages in other ways is not imported either: a small run is mostly imports.
assert not {"local.executor", "ray.executor"} & {
    name.removeprefix("comic_upscale.execution.") for name in sys.modules
}
"""


def test_a_run_with_a_worker_needs_no_torch_and_makes_the_same_file(
    process: tuple[Path, subprocess.Popen[str]], tmp_path: Path
) -> None:
    path, worker = process
    page = draw(tmp_path / "in" / "1.png", 1, size=(48, 64))
    environment = clean_environment(tmp_path)
    outputs = []
    for name, words in (
        ("by a program", [sys.executable, "-c", SCRIPT, tmp_path / "in", tmp_path / "by a program", path]),
        ("by the command", command("run", "-i", tmp_path / "in", "-o", tmp_path / "by the command", "--scale", 2,
                                   "--worker", path)),
        ("alone", command("run", "-i", page.parent, "-o", tmp_path / "alone", "--scale", 2, "--device", "cpu")),
    ):  # fmt: skip
        ended = subprocess.run(
            [str(word) for word in words], env=environment, capture_output=True, text=True, timeout=PATIENCE,
            cwd=REPOSITORY,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr + ended.stdout
        outputs.append((tmp_path / name / "1.png").read_bytes())
    assert outputs[0] == outputs[1] == outputs[2]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 128 + signal.SIGTERM
    assert not path.exists()


def test_a_worker_ends_when_no_run_comes(folder: Path) -> None:
    worker = SocketWorker(folder / "w", cache_of(NearestEngine()), StopRequest())
    asyncio.run(asyncio.wait_for(worker.serve(0.1), PATIENCE))
    assert not worker.path.exists()


def test_an_executor_that_was_not_opened_can_be_closed(folder: Path) -> None:
    asyncio.run(WorkerExecutor(folder / "w", lambda *_: []).close())


def test_work_that_is_cancelled_before_it_begins_leaves_nothing(folder: Path) -> None:
    async def none() -> AsyncIterator[PageTask]:
        return
        yield

    async def cancel(channel: Channel) -> None:
        page_round = _Round(channel, 1, none(), StopRequest(), None, Activity())
        page_round._start(page_round._send_page, Frame("read", {"row_id": 1}, b""))
        (task,) = page_round._running
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def run() -> None:
        async with listening(folder / "w") as worker:
            reader, writer = await asyncio.open_unix_connection(str(worker.path))
            await cancel(Channel(reader, writer))
            writer.close()

    asyncio.run(run())
    # A coroutine that nobody awaited warns here, and warnings are errors.
    gc.collect()
