"""Workers of `serve --cluster` that are killed in the middle of a job, which goes on from its ledger in another one."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comic_upscale.errors import ComicUpscaleError
from comic_upscale.ledger.queries import read_done_pages
from comic_upscale.server.services import Services
from comic_upscale.worker.saved_state import LEDGER, state_of
from tests.conftest import LONG
from tests.server import buckets
from tests.server.conftest import OpenServices
from tests.server.running import clean_environment, command
from tests.server.test_whole_way import run_here
from tests.worker.test_kills import PAGES, kill_workers, make_volume

pytestmark = pytest.mark.skipif(
    not LONG,
    reason="loads PyTorch in a process of the cluster for each kill: set COMIC_UPSCALE_TEST_LONG=1",
)

VOLUMES, KILLS = 3, 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install '.[ray]'")
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    running.add_node(num_cpus=1)
    try:
        yield running
    finally:
        running.shutdown()


class Ledgers:
    """When each page was finished, by the ledgers of workers while they work."""

    def __init__(self, home: Path) -> None:
        self.times: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        """By job and page; more than one time means that a page was done again."""
        self._home, self._ended = home, threading.Event()

    def look(self, job_id: str, ledger: Path) -> set[tuple[str, str, str]]:
        """Read a ledger; return its pages, each with its job and its time."""
        # It may be about to be made, or be gone with its job.
        with contextlib.suppress(ComicUpscaleError, OSError):
            pages = {(job_id, page["source"], page["finished_at"]) for page in read_done_pages(ledger)[1]}
            for job, source, time in pages:
                self.times[job, source].add(time)
            return pages
        return set()

    def again(self) -> list[tuple[str, str]]:
        """Pages that were done more than once."""
        return [page for page, times in self.times.items() if len(times) > 1]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Read all ledgers below the folder again and again, for the length of the block."""

        def watch() -> None:
            while not self._ended.wait(0.1):
                for ledger in self._home.glob("*/*/*/out/.comic-upscale/ledger.sqlite3"):
                    self.look(ledger.parents[2].name, ledger)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


def expected_of(volumes: list[Path], home: Path) -> dict[str, bytes]:
    run_here(volumes[0].parent, home / "local")
    return {volume.name: (home / "local" / volume.name).read_bytes() for volume in volumes}


def worker_words(cluster: Any, data: Path) -> list[str]:
    options = ("--device", "cpu", "--worker-idle-timeout", "600", "--cluster", cluster.address)
    return command("worker", "--data", data, *options)


def test_a_job_on_a_cluster_survives_its_workers(
    cluster: Any, open_server: OpenServices, tmp_path: Path
) -> None:
    services = open_server()
    volumes = [make_volume(tmp_path / "volumes", each) for each in range(VOLUMES)]
    ledgers = Ledgers(tmp_path)

    def start(services: Services, home: Path) -> subprocess.Popen[bytes]:
        words = worker_words(cluster, services.settings.data)
        return subprocess.Popen(words, env=clean_environment(home), stderr=subprocess.DEVNULL)

    expected = expected_of(volumes, tmp_path)
    with ledgers.watching():
        kills = kill_workers(services, volumes, expected, start, tmp_path, KILLS)
    assert kills == KILLS + 1
    assert (len(ledgers.times), ledgers.again()) == (VOLUMES * PAGES, [])


def test_another_machine_of_the_cluster_goes_on(
    cluster: Any, open_server: OpenServices, postgres: Any, tmp_path: Path
) -> None:
    """On PostgreSQL and a bucket. Two machines take turns, so the next worker has the saved ledger and nothing else."""
    if reason := buckets.missing("rclone"):
        pytest.skip(reason)
    with buckets.running_bucket("rclone", tmp_path / "bucket") as bucket:
        settings = bucket.settings(tmp_path / "server", "kills", database=postgres.new_database())
        names = ("data", "storage", "database", "s3_endpoint", "s3_access_key_id", "s3_secret_access_key")
        services = open_server(**{name: getattr(settings, name) for name in names})
        volumes = [make_volume(tmp_path / "volumes", each) for each in range(VOLUMES)]
        ledgers, saved, started = Ledgers(tmp_path), set[tuple[str, str, str]](), list[Path]()

        def start(services: Services, home: Path) -> subprocess.Popen[bytes]:
            started.append(tmp_path / f"machine{len(started) % 2}")
            variables = {
                **bucket.environment(), "COMIC_UPSCALE_STORAGE": services.settings.storage,
                "DATABASE_URL": services.settings.database, "COMIC_UPSCALE_SAVE_INTERVAL": "0.2",
            }  # fmt: skip
            environment = clean_environment(home, **{name: str(value) for name, value in variables.items()})
            return subprocess.Popen(
                worker_words(cluster, started[-1]), env=environment, stderr=subprocess.DEVNULL
            )

        def keep_saved(job_id: str | None) -> None:
            rows = [] if job_id is None else services.database.read(lambda c: state_of(c, job_id))
            for row in rows:
                if row["name"] == LEDGER and job_id is not None:
                    # A file that is there would not be fetched again.
                    copy = tmp_path / f"saved{len(started)}.sqlite3"
                    services.files.fetch(row["storage_key"], copy)
                    now = ledgers.look(job_id, copy)
                    # A worker that did not begin there would save less than the one before.
                    assert {page for page in saved if page[0] == job_id} <= now
                    saved.update(now)

        expected = expected_of(volumes, tmp_path)
        with ledgers.watching():
            kills = kill_workers(services, volumes, expected, start, tmp_path, KILLS, keep_saved)
        services.close()
    assert kills == KILLS + 1
    assert len(saved) >= KILLS
    # Only what a machine had not saved is done again.
    assert not {(job_id, source) for job_id, source, _ in saved} & set(ledgers.again())
