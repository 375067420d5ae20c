"""The executor over a real Ray cluster of three nodes on this machine. Its start takes most of the time."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from comic_upscale.cli import app
from comic_upscale.engines.base import Batch
from comic_upscale.errors import DeviceError, RemoteError, SettingsError
from comic_upscale.execution.base import CRASH, Executor
from comic_upscale.execution.events import Event, JobFinished
from comic_upscale.execution.ray.executor import RayExecutor
from comic_upscale.execution.ray.options import RayOptions
from comic_upscale.execution.ray.page_server import PageClient, PageServer, PageServerAddress
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.run import run_job
from comic_upscale.settings.job import JobSettings
from comic_upscale.worker.engines import EngineCache
from comic_upscale.worker.job import JobRunner
from tests.archives import make_zip, picture, pictures
from tests.conftest import LONG, REPOSITORY
from tests.docs.markdown import blocks, code_spans, command_lines
from tests.docs.test_examples import own_commands
from tests.engines.test_command import QUICK_ENGINE
from tests.execution import test_executors as suite
from tests.fakes import NearestEngine
from tests.server import buckets
from tests.server.conftest import OpenServices, client_of, make_key, migrated, open_server
from tests.server.test_queue import job, taken
from tests.storage.conftest import bucket_of, names_in

__all__ = ["migrated", "open_server"]

RED = (255, 0, 0)

PROMISES = [
    suite.test_every_task_gets_one_outcome_and_its_own_pixels,
    suite.test_a_page_that_fails_is_a_value_and_the_others_go_on,
    suite.test_it_may_be_asked_again,
    suite.test_what_is_done_within_a_page_is_told,
    suite.test_a_stop_while_tasks_are_slow_to_come,
    suite.test_an_input_that_goes_away_ends_it_with_that_error,
    suite.test_who_takes_no_more_outcomes_leaves_nothing_running,
]
"""Of the suite for every executor: those whose engines and pages can be in another process."""
MORE_PROMISES = [
    suite.test_the_engine_fails_one_page_of_a_batch,
    suite.test_tasks_of_one_content_get_an_outcome_each,
    suite.test_no_task_at_all,
    suite.test_a_stop_before_the_beginning,
    suite.test_tasks_that_cannot_be_had_end_it_with_that_error,
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each, and this process connected to them."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install '.[ray]'")
    import ray
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    running.add_node(num_cpus=1)
    ray.init(address=running.address, log_to_driver=False, logging_level="CRITICAL")
    try:
        yield running
    finally:
        ray.shutdown()
        running.shutdown()


class RaySide(suite.Side):
    """The cluster, as a side of the suite for every executor."""

    options: RayOptions

    @asynccontextmanager
    async def open(self, settings: JobSettings, engine: NearestEngine) -> AsyncIterator[Executor]:
        executor = RayExecutor(self.options, lambda *_: [engine])
        try:
            await executor.open(
                settings, model="any", fingerprint="f" * 32, spending=None, on_progress=lambda event: None
            )
            yield executor
        finally:
            await executor.close()


def settings_in(folder: Path, **changes: Any) -> JobSettings:
    weights = folder / "any.safetensors"
    weights.write_bytes(b"weights")
    values: dict[str, Any] = {
        "input": folder / "in", "output": folder / "out", "model": str(weights), "workers": 2, "scale": 2.0, **changes,
    }  # fmt: skip
    return JobSettings(**values)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_keeps_what_every_executor_promises(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A process of the cluster may take a minute to start on a machine that is busy.
    monkeypatch.setattr(suite, "TIMEOUT", 600.0)
    side = RaySide("ray", tmp_path)
    side.options = RayOptions(address=cluster.address, actors=1, cpus=1)
    settings = settings_in(tmp_path)
    # Each starts a process of its own.
    for promise in [*PROMISES, *(MORE_PROMISES if LONG else [])]:
        try:
            promise(side, settings)
        except BaseException as error:
            error.add_note(f"in {promise.__name__}")
            raise


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_pages_survive_actors_and_nodes_and_a_page_that_kills_is_set_aside(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Between buckets. The page in red ends each process that meets it, and a node is lost in the middle."""
    if reason := buckets.missing("moto"):
        pytest.skip(reason)
    marked = tmp_path / "fell"

    def misbehave(batch: Batch) -> None:
        import time

        time.sleep(0.02)
        for page in batch.pixels:
            if np.all(page[0, 0] == RED):
                os._exit(9)
            if page[0, 0, 0] == 7 and not marked.exists():
                marked.touch()
                os._exit(9)

    pages = {f"ch {number % 3}/{number:02}.png": picture(number) for number in range(40)}
    pages["v.cbz"] = make_zip(tmp_path / "made.zip", pictures(3, seed=60)).read_bytes()
    with buckets.running_bucket("moto", tmp_path_factory.mktemp("moto")) as server:
        for name, value in server.variables().items():
            monkeypatch.setenv(name, value)
        address = Path("s3://comics/cluster")
        for name, data in {**pages, "red.png": _filled(RED), "once.png": _filled((7, 0, 0))}.items():
            bucket_of(address / "in").put(name, data)
        settings = settings_in(
            tmp_path, input=address / "in", output=address / "out",
            ledger=tmp_path / "job" / ".comic-upscale" / "ledger.sqlite3", batch=1,
        )  # fmt: skip
        lost = cluster.add_node(num_cpus=1)
        taken = threading.Event()

        def on_event(event: Event) -> None:
            if type(event).__name__ == "PageDone" and not taken.is_set():
                taken.set()
                threading.Thread(
                    target=cluster.remove_node, args=(lost,), kwargs={"allow_graceful": False}
                ).start()

        finished = run_job(
            settings,
            open_engines=lambda *_: [NearestEngine(misbehave)],
            cluster=RayOptions(address=cluster.address, actors=3, cpus=1, environment=server.variables()),
            on_event=on_event,
        )
        made = {
            each.key: bucket_of(address / "out").get(each.key) for each in bucket_of(address / "out").walk()
        }
    assert (finished.done, finished.failed) == (44, 1)
    ((source, kind, reason),) = finished.failures
    assert (source, kind) == ("red.png", CRASH)
    assert "3 processes ended" in reason
    assert marked.exists()
    local = _run_locally(tmp_path / "local", {**pages, "once.png": _filled((7, 0, 0))})
    names = [name for name in made if not name.startswith(".comic-upscale/")]
    assert sorted(names) == sorted(local)
    assert all(made[name] == local[name] for name in names if not name.endswith(".cbz"))
    # What a lost actor had written is gone.
    assert [name for name in made if name.startswith(".comic-upscale/")] == [".comic-upscale/ledger.sqlite3"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_commands_of_the_page_about_clusters_run(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As they stand there, in their order; only the cluster and the bucket are others, and smaller."""
    if reason := buckets.missing("moto"):
        pytest.skip(reason)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    smaller = {"--cluster": cluster.address, "--cluster-actors": "1", "--cluster-gpus": "0"}
    page = REPOSITORY / "docs" / "cluster.md"
    lines = [line for block in blocks(page) if block.language == "sh" for line in command_lines(block)]
    lines += [span for span in code_spans(page) if span.startswith("comic-upscale status")]
    seen: list[str] = []
    with buckets.running_bucket("moto", tmp_path_factory.mktemp("moto")) as server:
        for name, value in server.variables().items():
            monkeypatch.setenv(name, value)
        for number in range(3):
            bucket_of(Path("s3://comics/pages")).put(f"{number}.png", picture(number))
        for words in [words for line in lines for words in own_commands(line)]:
            asked = [smaller.get(before, word) for before, word in zip(["", *words[:-1]], words, strict=True)]
            # An engine that starts sooner than one with PyTorch.
            quick = QUICK_ENGINE if words[0] == "run" else ()
            result = CliRunner().invoke(app, [*asked, *quick])
            assert result.exit_code == 0, f"{words}\n{result.output}\n{result.exception!r}"
            seen.append(words[0])
        made = [each.key for each in bucket_of(Path("s3://comics/big")).walk()]
    assert seen == ["run", "run", "cost", "run", "status"]
    assert sorted(made) == [".comic-upscale/ledger.sqlite3", "0.png", "1.png", "2.png"]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_engines_that_all_fail_end_the_run(cluster: Any, tmp_path: Path) -> None:
    def fail(_: Batch) -> None:
        raise DeviceError("the GPU fell off the bus")

    def run(engine: NearestEngine, **changes: Any) -> JobFinished:
        options = RayOptions(address=cluster.address, actors=1, cpus=1)
        return run_job(settings_in(tmp_path, **changes), open_engines=lambda *_: [engine], cluster=options)

    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}.png").write_bytes(picture(number))
    with pytest.raises(DeviceError, match="fell off the bus"):
        run(NearestEngine(fail))


@pytest.mark.skipif(
    not LONG, reason="loads PyTorch in a process of the cluster: set COMIC_UPSCALE_TEST_LONG=1"
)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_of_a_server_lets_the_cluster_process_its_jobs(
    cluster: Any, tmp_path: Path, open_server: OpenServices
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "1.png").write_bytes(picture(1))
    services = open_server(roots=(str(tmp_path / "root"),), cluster=cluster.address)
    with client_of(services, make_key(services, "boss", "admin")) as client:
        asked = {"input": str(tmp_path / "root"), "options": {"factor": "2", "model": "comic-fast"}}
        assert client.post("/api/v1/admin/jobs", json=asked).status_code == 202
    claimed = taken(services.database)
    # The engines of the worker itself are not used.
    engines = EngineCache(suite.no_engines)
    JobRunner(
        services.settings,
        {"workers": 1},
        services.database,
        services.files,
        StopRequest(),
        engines,
    ).run(claimed)
    found = job(services.database, claimed.job_id)
    assert (found["status"], found["error"]) == ("completed", None)
    assert (tmp_path / "root" / "upscaled" / "1.png").is_file()


def _run_locally(folder: Path, pages: dict[str, bytes]) -> dict[str, bytes]:
    folder.mkdir()
    settings = settings_in(folder)
    for name, data in pages.items():
        path = settings.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    run_job(settings, open_engines=lambda *_: [NearestEngine()])
    names = [name for name in names_in(settings.output) if not name.startswith(".comic-upscale/")]
    return {name: (settings.output / name).read_bytes() for name in names}


def _filled(color: tuple[int, int, int]) -> bytes:
    import io

    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (24, 32), color).save(data, "png")
    return data.getvalue()


# Without a cluster


@pytest.mark.parametrize("address", ["", "http://x:1", "ray:/x:1", "host", "host:port", "x y:1"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="--cluster must be"):
        RayOptions(address=address)


@pytest.mark.skipif(not LONG, reason="starts a process that imports Ray: set COMIC_UPSCALE_TEST_LONG=1")
def test_an_address_that_is_no_cluster_does_not_hang() -> None:
    """In a process of its own: what Ray has begun to connect cannot be stopped."""
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    program = (
        "import sys; from comic_upscale.execution.ray import pool, options; pool.CONNECT_SECONDS = 1.0;"
        "pool.connect(options.RayOptions(address=sys.argv[1]))"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", program, address], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "no answer in 1 s" in done.stderr


def test_secrets_are_in_no_text() -> None:
    options = RayOptions(address="auto", environment={"AWS_SECRET_ACCESS_KEY": "hidden"})
    assert "hidden" not in repr(options)
    assert "word" not in repr(PageServerAddress("host", 1, "word"))


def test_who_does_not_know_the_word_gets_no_page() -> None:
    async def work() -> None:
        server = PageServer()
        address = await server.start("127.0.0.1")
        try:
            client = PageClient(address)
            await client.check()
            await client.close()
            with pytest.raises(RemoteError, match="cannot reach this run"):
                await PageClient(PageServerAddress("127.0.0.1", address.port, "wrong")).check()
        finally:
            await server.close()
        with pytest.raises(RemoteError, match="ray job submit"):
            await PageClient(address).check()

    asyncio.run(work())
