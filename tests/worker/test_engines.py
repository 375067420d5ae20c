"""Engines that stay open between jobs: the same pixels, one loading, and a bounded number of models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comic_upscale.engines.base import Batch, Engine, follow
from comic_upscale.engines.registry import open_engines
from comic_upscale.execution.stop import StopRequest
from comic_upscale.jobs.service import JobService
from comic_upscale.models.weights import ResolvedWeights
from comic_upscale.settings.job import JobSettings
from comic_upscale.worker.engines import EngineCache
from tests.conftest import MakeJob, draw
from tests.fakes import TellingEngine
from tests.server.running import PATIENCE


def test_jobs_share_a_loaded_model_and_get_the_same_pixels(tmp_path: Path, make_job: MakeJob) -> None:
    draw(tmp_path / "in" / "page.png", 1)
    opened: list[str] = []

    def counted(settings: JobSettings, weights: ResolvedWeights | None) -> list[Engine]:
        opened.append(settings.model)
        return open_engines(settings, weights)

    cache = EngineCache(counted)
    service = JobService(tmp_path / "state")
    for number in range(3):
        job = make_job(output=tmp_path / f"out{number}", device="cpu")
        service.run(job, on_event=lambda _event: None, stop=StopRequest(), open_engines=cache.open_engines)
    service.run(
        make_job(output=tmp_path / "fresh", device="cpu"), on_event=lambda _event: None, stop=StopRequest()
    )
    assert len(opened) == len(cache.models) == 1
    pages = [
        np.asarray(Image.open(tmp_path / name / "page.png")) for name in ("out0", "out1", "out2", "fresh")
    ]
    for page in pages[1:]:
        assert np.array_equal(pages[0], page)
    cache.close()
    assert cache.models == []


def test_what_a_shared_engine_tells_goes_to_the_job_that_uses_it(make_job: MakeJob) -> None:
    cache = EngineCache(lambda *_: [TellingEngine()])
    told: dict[str, list[float]] = {"first": [], "second": []}
    batch = Batch(np.zeros((1, 4, 4, 3), np.uint8), (8, 8))
    engines = {name: cache.open_engines(make_job(), None)[0] for name in told}
    for name, engine in engines.items():
        follow(engine, lambda part, name=name: told[name].append(part.done))
    engines["first"].upscale(batch)
    assert told == {"first": [0, 1], "second": []}
    engines["second"].upscale(batch)
    assert told == {"first": [0, 1], "second": [0, 1]}
    follow(engines["second"], None)
    engines["second"].upscale(batch)
    assert told == {"first": [0, 1], "second": [0, 1]}


class Closing:
    """An engine that only notes that it was closed."""

    def __init__(self, name: str, closed: list[str]) -> None:
        self.name, self.closed = name, closed

    def close(self) -> None:
        self.closed.append(self.name)


@pytest.mark.parametrize("most", [1, 2])
def test_the_model_used_longest_ago_makes_room(tmp_path: Path, make_job: MakeJob, most: int) -> None:
    closed: list[str] = []
    cache = EngineCache(lambda job, _weights: [Closing(job.model, closed)], most)  # type: ignore[list-item]
    for model in ("a", "b", "a", "c"):
        for engine in cache.open_engines(make_job(model=model), None):
            engine.close()
    assert cache.models == (["c"] if most == 1 else ["a", "c"])
    assert closed == (["a", "b", "a"] if most == 1 else ["b"])
    cache.close()
    assert sorted(closed) == (["a", "a", "b", "c"] if most == 1 else ["a", "b", "c"])


def test_the_devices_can_be_described_while_torch_is_being_imported() -> None:
    code = (
        "import threading\n"
        "from comic_upscale.worker.devices import describe_gpus\n"
        "loading = threading.Thread(target=lambda: __import__('torch'))\n"
        "loading.start()\n"
        "while loading.is_alive():\n    describe_gpus()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)
