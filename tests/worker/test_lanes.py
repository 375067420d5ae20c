"""The reserve for interactive jobs: they start beside a job of the batch lane, and their batches go first."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from comic_upscale.engines.base import Engine
from comic_upscale.settings.job import JobSettings
from comic_upscale.worker.engines import EngineCache, Turn
from tests.conftest import MakeJob, draw
from tests.server.conftest import OpenServices, client_of, make_key
from tests.server.running import PATIENCE, wait_for
from tests.worker.test_engines import Closing
from tests.worker.test_kills import make_volume, start_worker


def test_batches_of_interactive_jobs_go_first() -> None:
    turn, order, ready = Turn(), [], threading.Barrier(4)

    def use(name: str, first: bool) -> None:
        ready.wait(PATIENCE)
        with turn.take(first=first):
            order.append(name)

    threads = [
        threading.Thread(target=use, args=("batch", False)),
        threading.Thread(target=use, args=("batch", False)),
        threading.Thread(target=use, args=("interactive", True)),
    ]
    with turn.take(first=False):
        for thread in threads:
            thread.start()
        ready.wait(PATIENCE)
        # All three wait by now, or come a moment later; only the interactive one must have come.
        wait_for(lambda: turn._first_waiting)
    for thread in threads:
        thread.join(PATIENCE)
    assert order == ["interactive", "batch", "batch"]


def test_one_batch_at_a_time(tmp_path: Path) -> None:
    turn, inside, most = Turn(), 0, 0

    def use(number: int) -> None:
        nonlocal inside, most
        for _ in range(200):
            with turn.take(first=bool(number % 2)):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (most, inside) == (1, 0)


def test_an_error_of_a_batch_gives_the_engine_back() -> None:
    turn = Turn()
    with pytest.raises(ValueError, match="batch"), turn.take(first=True):
        raise ValueError("batch")
    with turn.take(first=False):
        pass


def test_a_model_in_use_is_not_closed_for_another(make_job: MakeJob) -> None:
    closed: list[str] = []
    cache = EngineCache(lambda job, _weights: [Closing(job.model, closed)], 1)  # type: ignore[list-item]
    held = cache.open_engines(make_job(model="a"), None)
    beside = cache.open_engines(make_job(model="b"), None)
    assert (cache.models, closed) == (["a", "b"], [])
    for engine in (*beside, *beside):
        # A second close of the same job counts no further user away.
        engine.close()
    cache.open_engines(make_job(model="c"), None)
    assert (cache.models, closed) == (["a", "c"], ["b"])
    held[0].close()
    cache.open_engines(make_job(model="d"), None)
    assert closed == ["b", "a"]
    cache.close()


def test_a_model_that_cannot_be_opened_is_tried_again(make_job: MakeJob) -> None:
    attempts: list[str] = []

    def opener(job: object, _weights: object) -> list[Engine]:
        attempts.append("x")
        if len(attempts) == 1:
            raise MemoryError
        return [Closing("a", [])]  # type: ignore[list-item]

    cache = EngineCache(opener)
    with pytest.raises(MemoryError):
        cache.open_engines(make_job(model="a"), None)
    assert cache.models == []
    assert len(cache.open_engines(make_job(model="a"), None)) == 1


def test_a_job_that_waits_for_a_model_keeps_it_in_the_cache_though_the_first_one_failed(
    make_job: MakeJob,
) -> None:
    attempts: list[str] = []
    closed: list[str] = []
    loading, may_fail = threading.Event(), threading.Event()

    def opener(job: JobSettings, _weights: object) -> list[Engine]:
        attempts.append(job.model)
        if len(attempts) == 1:
            loading.set()
            assert may_fail.wait(PATIENCE)
            raise MemoryError
        return [Closing(job.model, closed)]  # type: ignore[list-item]

    cache = EngineCache(opener)
    # Daemons: if they wait for each other, the test fails and ends all the same.
    results: list[object] = []

    def open_it() -> None:
        try:
            results.append(cache.open_engines(make_job(model="a"), None))
        except MemoryError as error:
            results.append(error)

    threads = [threading.Thread(target=open_it, daemon=True) for _ in range(2)]
    threads[0].start()
    assert loading.wait(PATIENCE)
    threads[1].start()
    try:
        wait_for(lambda: any(entry.users == 2 for entry in cache._open.values()), seconds=20)
        # Neither the signs of life nor another model wait for the loading.
        assert cache.models == ["a"]
        cache.open_engines(make_job(model="b"), None)[0].close()
    finally:
        may_fail.set()
    for thread in threads:
        thread.join(20)
    assert sorted(type(result).__name__ for result in results) == ["MemoryError", "list"]
    assert sorted(cache.models) == ["a", "b"]
    cache.open_engines(make_job(model="a"), None)
    assert attempts == ["a", "b", "a"]
    cache.close()
    assert sorted(closed) == ["a", "b"]


@pytest.mark.skipif(os.name != "posix", reason="the worker is told to stop by signals")
def test_a_page_that_somebody_waits_for_never_waits_for_a_library(
    open_server: OpenServices, tmp_path: Path
) -> None:
    services = open_server(jobs_per_user=1)
    volume, page = make_volume(tmp_path / "volumes", 1), draw(tmp_path / "page.png", 5, size=(40, 50))
    with client_of(services, make_key(services, "me")) as client:

        def upload(path: Path, **fields: str) -> str:
            answer = client.post(
                "/api/v1/uploads", files=[("file", (path.name, path.read_bytes()))], data=fields
            )
            return str(answer.json()["job_id"])

        def state(job_id: str) -> dict[str, object]:
            found: dict[str, object] = client.get(f"/api/v1/jobs/{job_id}").json()
            return found

        # The batch job cannot end by itself before the page: it waits for pages that are large for this engine.
        library = upload(volume, factor="8")
        worker = start_worker(services, tmp_path)
        try:
            wait_for(lambda: state(library)["pages"]["done"])  # type: ignore[index]
            wanted = upload(page, lane="interactive", factor="2")
            second = upload(page, factor="2")
            wait_for(lambda: state(wanted)["status"] == "completed")
            # One user may run one job in each lane, so the other page still waits behind the library.
            assert state(second)["status"] == "queued" or state(library)["status"] == "completed"
            wait_for(lambda: state(second)["status"] == "completed")
        finally:
            worker.terminate()
            worker.wait(PATIENCE)
        assert str(state(wanted)["finished_at"]) < str(state(library)["finished_at"])
        assert str(state(library)["finished_at"]) <= str(state(second)["finished_at"])
